package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// ErrNoModule says that the kernel neither has the module nor has it built in.
var ErrNoModule = errors.New("no such module")

// Modules is what a kernel release has in its module directory.
type Modules struct {
	dir     string
	files   map[string]string   // module name → path below dir
	needs   map[string][]string // path → paths it needs, as modules.dep lists them
	builtin map[string]bool
}

// OpenModules reads modules.dep and modules.builtin of dir (usually /lib/modules/<release>).
func OpenModules(dir string) (*Modules, error) {
	m := &Modules{dir: dir, files: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	if err := readLines(filepath.Join(dir, "modules.dep"), m.addDependencies); err != nil {
		return nil, err
	}
	err := readLines(filepath.Join(dir, "modules.builtin"), func(line string) error {
		m.builtin[moduleName(line)] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Order returns the files of the named modules and of all they need, each once and never before what it needs.
// A module that is built in has no file. One that does not exist at all is ErrNoModule.
func (m *Modules) Order(names ...string) ([]string, error) {
	var order []string
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(path string) error
	visit = func(path string) error {
		switch state[path] {
		case done:
			return nil
		case visiting:
			return fmt.Errorf("order modules: %s needs itself", path)
		}
		state[path] = visiting
		// modules.dep lists the nearest need first, so the farthest is loaded first.
		needs := m.needs[path]
		for i := len(needs) - 1; i >= 0; i-- {
			if err := visit(needs[i]); err != nil {
				return err
			}
		}
		state[path] = done
		order = append(order, filepath.Join(m.dir, path))
		return nil
	}
	for _, name := range names {
		name = canonical(name)
		path, ok := m.files[name]
		if !ok {
			if m.builtin[name] {
				continue
			}
			return nil, fmt.Errorf("find module %s in %s: %w", name, m.dir, ErrNoModule)
		}
		if err := visit(path); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func (m *Modules) addDependencies(line string) error {
	path, needs, ok := strings.Cut(line, ":")
	if !ok {
		return fmt.Errorf("no colon in %q", line)
	}
	m.files[moduleName(path)] = path
	m.needs[path] = strings.Fields(needs)
	return nil
}

// moduleName turns kernel/arch/x86/kvm/kvm-amd.ko.xz into kvm_amd.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return canonical(name)
}

// canonical writes a module's name as the kernel does: a dash is an underscore.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func readLines(path string, each func(string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the kernel's module list: %w", err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadString('\n')
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			if err := each(line); err != nil {
				return fmt.Errorf("read %s, line %d: %w", path, n, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
}
