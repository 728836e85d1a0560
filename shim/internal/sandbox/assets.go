package sandbox

import (
	"fmt"
	"iter"
	"os"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/rundir"
)

// guestCID is the guest's vsock address. The sockets are the sandbox's own, so it need not be unique.
const guestCID = 3

// assets are the files that every VM needs, opened before anything is started: they may be replaced on disk
// from then on.
type assets struct {
	kernel, initramfs *os.File
	sockets           *os.File // the sandbox's directory
	console           *os.File // nil unless the configuration asks for it
}

func openAssets(c *config.Config, dir rundir.Dir) (a assets, err error) {
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.kernel, err = openAsset("kernel", c.Kernel); err != nil {
		return a, err
	}
	if a.initramfs, err = openAsset("initramfs", c.Initramfs); err != nil {
		return a, err
	}
	if a.sockets, err = os.Open(string(dir)); err != nil {
		return a, fmt.Errorf("open the sandbox's directory: %w", err)
	}
	if c.Console {
		a.console, err = os.OpenFile(dir.Join(rundir.ConsoleLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return a, fmt.Errorf("open the console's log: %w", err)
		}
	}
	return a, nil
}

// CheckAssets tries the files that a boot needs, by name.
func CheckAssets(c *config.Config) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		try := func(name string, f *os.File, err error) bool {
			if err == nil {
				_ = f.Close()
			}
			return yield(name, err)
		}
		kernel, err := openAsset("kernel", c.Kernel)
		if !try("kernel", kernel, err) {
			return
		}
		initramfs, err := openAsset("initramfs", c.Initramfs)
		try("initramfs", initramfs, err)
	}
}

func openAsset(name, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the guest's %s: %w: install husk-%s beside the shim, or set %s in husk's configuration",
			name, err, name, name)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		f.Close()
		return nil, fmt.Errorf("open the guest's %s: %s is empty or not a file", name, path)
	}
	return f, nil
}

func (a *assets) files() []*os.File {
	return []*os.File{a.kernel, a.initramfs, a.sockets, a.console}
}

func (a *assets) close() {
	for _, f := range a.files() {
		if f != nil {
			_ = f.Close()
		}
	}
}

// donate gives the VMM its copies and begins the request that names them.
func (a *assets) donate(m machine) (*vmmv1.BootRequest, error) {
	var tokens [4]uint32
	for i, f := range a.files() {
		if f == nil {
			continue
		}
		token, err := m.Donate(f)
		if err != nil {
			return nil, err
		}
		tokens[i] = token
	}
	return &vmmv1.BootRequest{
		Kernel: tokens[0], Initramfs: tokens[1],
		Vsock:   &vmmv1.Vsock{GuestCid: guestCID, Directory: tokens[2]},
		Console: &vmmv1.Console{Output: tokens[3]},
	}, nil
}
