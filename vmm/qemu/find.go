package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Binary is a QEMU that can be used.
type Binary struct {
	Path    string
	Version Version
}

// directories are looked through before PATH: whoever starts a runtime often gives it no environment.
var directories = []string{"/usr/local/bin", "/usr/bin", "/bin"}

// probeTimeout is far above the tenth of a second that QEMU takes to tell its version.
const probeTimeout = 30 * time.Second

// Locate looks for the QEMU of an architecture (a GOARCH), or takes the one that override names, without running it.
func Locate(goarch, override string) (Binary, error) {
	b, err := boardOf(goarch)
	if err != nil {
		return Binary{}, err
	}
	path, err := locate(b, override)
	return Binary{Path: path}, err
}

// Find is Locate, and makes sure that the QEMU is new enough and has the machine. It runs QEMU twice, side by side; that
// takes as long as loading QEMU does.
func Find(goarch, override string) (Binary, error) {
	b, err := boardOf(goarch)
	if err != nil {
		return Binary{}, err
	}
	path, err := locate(b, override)
	if err != nil {
		return Binary{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	var machines string
	var machinesErr error
	var w sync.WaitGroup
	w.Go(func() { machines, machinesErr = output(ctx, path, "-M", "help") })
	version, err := output(ctx, path, "--version")
	w.Wait()
	if err != nil {
		return Binary{}, err
	}
	q := Binary{Path: path}
	if q.Version, err = parseVersion(version); err != nil {
		return Binary{}, fmt.Errorf("%s: %w", path, err)
	}
	if q.Version.Before(MinVersion) {
		return Binary{}, fmt.Errorf("%s is QEMU %s: husk needs %s or newer", path, q.Version, MinVersion)
	}
	if machinesErr != nil {
		return Binary{}, machinesErr
	}
	if !hasMachine(machines, b.machine) {
		return Binary{}, fmt.Errorf("%s has no machine type %s, so it is for another purpose or cut down: %s", path, b.machine, b.packages())
	}
	return q, nil
}

// locate finds the executable without running it.
func locate(b board, override string) (string, error) {
	if override != "" {
		if err := executable(override); err != nil {
			return "", fmt.Errorf("the configured QEMU: %w", err)
		}
		return override, nil
	}
	for _, dir := range append(directories[:len(directories):len(directories)], filepath.SplitList(os.Getenv("PATH"))...) {
		if path := filepath.Join(dir, b.command()); filepath.IsAbs(dir) && executable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed (looked in %s and PATH): %s", b.command(), strings.Join(directories, ", "), b.packages())
}

func executable(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s: the path must be absolute", path)
	}
	switch info, err := os.Stat(path); {
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: %w", path, fs.ErrPermission)
	}
	return nil
}

// output runs a query and returns what it prints.
func output(ctx context.Context, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second // for a child of it that holds the pipe
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("run %s %s: %w", path, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// hasMachine looks for a name in the first column of -M help.
func hasMachine(help, name string) bool {
	for l := range strings.Lines(help) {
		if f := strings.Fields(l); len(f) > 0 && f[0] == name {
			return true
		}
	}
	return false
}
