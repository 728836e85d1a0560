package guest

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/wire"
)

// loader loads modules from a directory it holds open, so that it works on after the root has changed.
type loader struct {
	dir     *os.Root
	loaded  []wire.Module
	verbose bool
}

func newLoader(dir string, verbose bool) (*loader, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open modules: %w", err)
	}
	return &loader{dir: root, verbose: verbose}, nil
}

// load loads modules in the given order. One that is not required may fail: kvm_intel does on an AMD processor.
func (l *loader) load(modules []wire.Module) error {
	for _, m := range modules {
		l.loaded = append(l.loaded, m)
		err := l.insert(m.File)
		switch {
		case err == nil || err == unix.EEXIST:
		case m.Required:
			return fmt.Errorf("load module %s: %w", m.File, err)
		case l.verbose:
			fmt.Fprintf(os.Stderr, "husk test host: module %s: %v\n", m.File, err)
		}
	}
	return nil
}

func (l *loader) insert(file string) error {
	f, err := l.dir.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// discard gives the memory of the files back.
func (l *loader) discard() {
	for _, m := range l.loaded {
		// An initramfs file that stays only costs memory.
		_ = l.dir.Remove(m.File)
	}
	l.dir.Close()
}
