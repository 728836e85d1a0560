// Package rig is a private containerd with husk on its PATH and the test image in its store: what the
// end-to-end tests, the demo and the benchmarks drive. It runs as root.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// Image is what containers are made of; see test/image.
	Image = "husk.test/busybox:latest"
	// Runtime is husk's name in containerd.
	Runtime = "io.containerd.husk.v2"
)

// Config says which containerd to run and where. Required: all but HuskConfig.
type Config struct {
	Containerd string // directory of containerd and ctr; empty is the distribution's
	Bin        string // directory of husk's programs and assets
	ImageTar   string
	Dir        string // for containerd's root, state and logs; must exist and be able to hold an overlay's upper layer
	HuskConfig string // contents of husk's configuration file; empty for none
	CRI        *CRI   // nil leaves the CRI plugin out
	Namespace  string // of containerd, for the image and ctr; empty is containerd's default
	Plugins    string // further tables of containerd's configuration, without CRI
}

// CRI is containerd's configuration of the CRI plugin.
type CRI struct {
	Version int      // of the configuration file: 2, or 3 for containerd 2.x
	Imports []string // further files
	Plugins string   // the plugin's tables
}

// Rig is a running containerd.
type Rig struct {
	cfg Config
	cmd *exec.Cmd
	log *os.File
}

// Start runs containerd and imports the image.
func Start(ctx context.Context, cfg Config) (*Rig, error) {
	r := &Rig{cfg: cfg}
	if err := os.WriteFile(r.path("containerd.toml"), []byte(r.containerdConfig()), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(r.path("husk.toml"), []byte(cfg.HuskConfig), 0o600); err != nil {
		return nil, err
	}
	if err := makeScratch(r.path(scratch)); err != nil {
		return nil, err
	}
	if err := r.Launch(ctx); err != nil {
		return nil, err
	}
	if out, err := r.Ctr(ctx, "image", "import", cfg.ImageTar).CombinedOutput(); err != nil {
		_ = r.Stop()
		tail, _ := r.LogTail(40)
		return nil, fmt.Errorf("import %s: %w: %s%s", cfg.ImageTar, err, out, tail)
	}
	return r, nil
}

// Launch starts containerd, again after Kill, and waits until it answers.
func (r *Rig) Launch(ctx context.Context) error {
	log, err := os.OpenFile(r.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	r.log = log
	r.cmd = exec.Command(r.tool("containerd"), "--config", r.path("containerd.toml"), "--log-level", "debug")
	r.cmd.Stdout, r.cmd.Stderr = log, log
	// husk's shim, and a runc shim of containerd's own version where there is one.
	path := strings.Join([]string{r.cfg.Bin, r.cfg.Containerd, os.Getenv("PATH")}, ":")
	r.cmd.Env = append(os.Environ(), "PATH="+path, "HUSK_CONFIG="+r.path("husk.toml"))
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		probe, stop := context.WithTimeout(ctx, 5*time.Second)
		err := r.Ctr(probe, "version").Run()
		stop()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			_ = r.Kill()
			tail, _ := r.LogTail(20)
			return fmt.Errorf("containerd does not answer: %w\n%s", err, tail)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends containerd with SIGKILL; containers go on.
func (r *Rig) Kill() error { return r.end(syscall.SIGKILL) }

// Stop ends containerd in peace; containers go on.
func (r *Rig) Stop() error { return r.end(syscall.SIGTERM) }

func (r *Rig) end(sig syscall.Signal) error {
	if r.cmd == nil || r.cmd.Process == nil {
		return nil
	}
	_ = r.cmd.Process.Signal(sig)
	err := r.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	r.cmd = nil
	_ = r.log.Close()
	return err
}

// Ctr is a call of ctr, not started yet.
func (r *Rig) Ctr(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.tool("ctr"), append([]string{"--address", r.Address()}, args...)...)
	// What containerd thinks of the host's cgroup v1 is not the container's output.
	cmd.Env = append(os.Environ(), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=true")
	if r.cfg.Namespace != "" {
		cmd.Env = append(cmd.Env, "CONTAINERD_NAMESPACE="+r.cfg.Namespace)
	}
	return cmd
}

// Cgroup, when set, names the cgroup of each container that RunArgs makes; without it ctr does.
var Cgroup func(id string) string

// RunArgs are ctr's arguments for a husk container of the test image: flags go before, args are the command.
func RunArgs(id string, flags []string, args ...string) []string {
	a := []string{"run", "--rm", "--runtime", Runtime}
	if Cgroup != nil {
		a = append(a, "--cgroup", Cgroup(id))
	}
	a = append(a, flags...)
	return append(append(a, Image, id), args...)
}

// Result is how a command ended.
type Result struct {
	Status int
	Stdout string
	Stderr string
	Took   time.Duration
}

// Run is `ctr run --rm` to its end. An error means that ctr itself could not run.
func (r *Rig) Run(ctx context.Context, id string, flags []string, args ...string) (Result, error) {
	return Exec(r.Ctr(ctx, RunArgs(id, flags, args...)...))
}

// Exec runs a command to its end and keeps what it printed.
func Exec(cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	start := time.Now()
	err := cmd.Run()
	res := Result{Stdout: stdout.String(), Stderr: stderr.String(), Took: time.Since(start)}
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && exit.Exited():
		res.Status = exit.ExitCode()
	default:
		return res, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, res.Stderr)
	}
	return res, nil
}

// Address is containerd's socket.
func (r *Rig) Address() string { return r.path("containerd.sock") }

// StateDir is containerd's state directory, where the bundles are.
func (r *Rig) StateDir() string { return r.path("state") }

// LogPath is containerd's log, and so that of the shims.
func (r *Rig) LogPath() string { return r.path("containerd.log") }

// LogTail returns the last n lines of the log.
func (r *Rig) LogTail(n int) (string, error) {
	f, err := os.Open(r.LogPath())
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n"), err
}

// Dir is where the rig keeps everything.
func (r *Rig) Dir() string { return r.cfg.Dir }

func (r *Rig) path(name string) string { return filepath.Join(r.cfg.Dir, name) }

func (r *Rig) tool(name string) string {
	if r.cfg.Containerd == "" {
		return name
	}
	return filepath.Join(r.cfg.Containerd, name)
}

func (r *Rig) containerdConfig() string {
	if c := r.cfg.CRI; c != nil {
		return fmt.Sprintf(`version = %d
root = %q
state = %q
imports = [%s]
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[ttrpc]
  address = %q
%s`, c.Version, r.path("root"), r.path("state"), quoted(c.Imports), r.Address(), r.Address()+".ttrpc", c.Plugins)
	}
	// Version 2 is read by 1.6 and by 2.x. CRI is not needed here and wants a network.
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins."io.containerd.snapshotter.v1.blockfile"] # of 1.7 and newer
  scratch_file = %q
  root_path = %q
  fs_type = "ext4"
%s`, r.path("root"), r.path("state"), r.Address(), r.Address()+".ttrpc", r.path(scratch), r.path("blockfile"), r.cfg.Plugins)
}

// quoted is a list of strings as TOML has it.
func quoted(list []string) string {
	var q []string
	for _, s := range list {
		q = append(q, fmt.Sprintf("%q", s))
	}
	return strings.Join(q, ", ")
}

// scratch is the file system that the blockfile snapshotter copies for the first layer of an image.
const scratch = "scratch.ext4"

func makeScratch(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(64<<20), f.Close())
	if err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path).CombinedOutput(); err != nil {
		return fmt.Errorf("make a file system for the blockfile snapshotter: %w: %s", err, out)
	}
	return nil
}
