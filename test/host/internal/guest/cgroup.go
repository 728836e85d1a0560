package guest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/huskvm/husk/test/host/internal/wire"
)

const cgroupRoot = "/sys/fs/cgroup"

// mountCgroups makes the layout that systemd would make: programs look for exactly these names.
func mountCgroups(root, layout string) error {
	switch layout {
	case wire.CgroupV2:
		return mountUnified(root)
	case wire.CgroupV1, wire.CgroupHybrid:
		return mountLegacy(root, layout == wire.CgroupHybrid)
	}
	return fmt.Errorf("mount cgroups: unknown layout %q", layout)
}

func mountUnified(root string) error {
	if err := unifiedMount(root, "nsdelegate,memory_recursiveprot").mount(); err != nil {
		return err
	}
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("list controllers: %w", err)
	}
	for _, controller := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			return fmt.Errorf("enable controller %s: %w", controller, err)
		}
	}
	return nil
}

func unifiedMount(target, options string) mount {
	return mount{source: "cgroup2", target: target, fstype: "cgroup2", flags: noExecFlags, data: options}
}

func legacyMount(target, options string) mount {
	return mount{source: "cgroup", target: target, fstype: "cgroup", flags: noExecFlags, data: options}
}

func mountLegacy(root string, hybrid bool) error {
	directories := mount{source: "tmpfs", target: root, fstype: "tmpfs", flags: noExecFlags, data: "mode=755"}
	if err := directories.mount(); err != nil {
		return err
	}
	f, err := os.Open("/proc/cgroups")
	if err != nil {
		return fmt.Errorf("list controllers: %w", err)
	}
	defer f.Close()
	controllers, err := parseControllers(f)
	if err != nil {
		return err
	}
	for _, h := range hierarchies(controllers) {
		// A controller that the kernel's command line withholds from v1 (cgroup_no_v1=) can't be mounted and
		// leaves an empty directory, just as on hosts configured so: code under test must cope with it.
		m := legacyMount(filepath.Join(root, h.name), h.name)
		m.optional = true
		if err := m.mount(); err != nil {
			return err
		}
		for _, alias := range h.aliases {
			if err := os.Symlink(h.name, filepath.Join(root, alias)); err != nil {
				return fmt.Errorf("link controller %s: %w", alias, err)
			}
		}
	}
	if err := legacyMount(filepath.Join(root, "systemd"), "none,name=systemd").mount(); err != nil {
		return err
	}
	if !hybrid {
		return nil
	}
	return unifiedMount(filepath.Join(root, "unified"), "nsdelegate").mount()
}

// hierarchy is one v1 mount, with the names under which its controllers are found too.
type hierarchy struct {
	name    string
	aliases []string
}

// joined lists the controllers that are customarily mounted together.
var joined = [][]string{{"cpu", "cpuacct"}, {"net_cls", "net_prio"}}

func hierarchies(controllers []string) []hierarchy {
	have := map[string]bool{}
	for _, c := range controllers {
		have[c] = true
	}
	var all []hierarchy
	for _, group := range joined {
		var present []string
		for _, c := range group {
			if have[c] {
				present = append(present, c)
				delete(have, c)
			}
		}
		switch len(present) {
		case 0:
		case 1:
			all = append(all, hierarchy{name: present[0]})
		default:
			all = append(all, hierarchy{name: strings.Join(present, ","), aliases: present})
		}
	}
	for _, c := range controllers {
		if have[c] {
			all = append(all, hierarchy{name: c})
		}
	}
	return all
}

// parseControllers reads /proc/cgroups: name, hierarchy, number of cgroups, enabled.
func parseControllers(r io.Reader) ([]string, error) {
	var controllers []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 4 && !strings.HasPrefix(fields[0], "#") && fields[3] == "1" {
			controllers = append(controllers, fields[0])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list controllers: %w", err)
	}
	return controllers, nil
}
