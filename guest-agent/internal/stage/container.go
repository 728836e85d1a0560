package stage

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/huskvm/husk/guest-agent/internal/netcfg"
	"github.com/huskvm/husk/guest-agent/internal/rootfs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

type processSpec = specs.Process

// cloneFlags are the namespaces of Linux by their OCI names.
var cloneFlags = map[specs.LinuxNamespaceType]int{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
}

// CloneFlag is the clone(2) flag of a namespace type, if there is such a type.
func CloneFlag(t specs.LinuxNamespaceType) (int, bool) {
	f, ok := cloneFlags[t]
	return f, ok
}

// makeContainer is called in the container's new namespaces and makes their content. What it does in the guest's
// tree, before pivot_root, does not depend on what the image or the mounts hold.
func (p *program) makeContainer() error {
	spec := p.config.Spec
	linux := spec.Linux
	if linux == nil {
		linux = &specs.Linux{}
	}
	ownCgroups, err := completeNamespaces(linux.Namespaces)
	if err != nil {
		return err
	}
	if err := setNames(spec); err != nil {
		return err
	}
	for key, value := range linux.Sysctl {
		if IsTheVMs(linux, key) {
			continue
		}
		if err := SetSysctl(key, value); err != nil {
			return err
		}
	}
	root, err := rootfs.Open(rootfs.Config{
		Path:            spec.Root.Path,
		Tree:            orNone(p.config.RootTree),
		Propagation:     linux.RootfsPropagation,
		Cgroup:          p.config.Cgroup,
		CgroupNamespace: ownCgroups,
		UserNamespace:   hasNamespace(linux.Namespaces, specs.UserNamespace),
	})
	if err != nil {
		return err
	}
	for i, m := range spec.Mounts {
		if err := root.Mount(m, orNone(p.config.Trees[i])); err != nil {
			return err
		}
	}
	if err := root.Devices(linux.Devices); err != nil {
		return err
	}
	cwd, err := root.MkdirAll(p.process.Cwd, 0o755)
	if err != nil {
		return fmt.Errorf("mkdir %s: %w", p.process.Cwd, err)
	}
	unix.Close(cwd)
	if err := root.ReadOnly(linux.ReadonlyPaths); err != nil {
		return err
	}
	if err := root.Mask(linux.MaskedPaths); err != nil {
		return err
	}
	if err := p.createHooks(); err != nil {
		return err
	}
	if err := root.Pivot(linux.RootfsPropagation); err != nil {
		return err
	}
	if err := replaceNull(); err != nil {
		return err
	}
	if err := p.openTerminal(true); err != nil {
		return err
	}
	return root.Freeze(spec.Root.Readonly)
}

func orNone(fd int) int {
	if fd == 0 {
		return -1
	}
	return fd
}

func hasNamespace(list []specs.LinuxNamespace, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(list, func(n specs.LinuxNamespace) bool { return n.Type == t })
}

// completeNamespaces finishes the new ones that clone(2) has left unfinished. Those given by path have been joined.
func completeNamespaces(list []specs.LinuxNamespace) (ownCgroups bool, err error) {
	for _, n := range list {
		ownCgroups = ownCgroups || n.Type == specs.CgroupNamespace
		switch {
		case n.Path != "":
		case n.Type == specs.NetworkNamespace:
			if err := netcfg.LoopbackUp(); err != nil {
				return false, err
			}
		case n.Type == specs.CgroupNamespace:
			// Only now, so that the container's cgroup, not the agent's, is its root.
			if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
				return false, fmt.Errorf("new cgroup namespace: %w", err)
			}
		}
	}
	return ownCgroups, nil
}

// joinContainer enters the namespaces of the container's init that the process was not born in.
func (p *program) joinContainer() error {
	// A mount namespace can be entered only by who shares its root and directory with nobody.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system attributes: %w", err)
	}
	if err := unix.Setns(p.config.JoinFD, p.config.JoinFlags); err != nil {
		return fmt.Errorf("join the container's namespaces: %w", err)
	}
	unix.Close(p.config.JoinFD)
	if err := replaceNull(); err != nil {
		return err
	}
	return p.openTerminal(false)
}

func setNames(spec *specs.Spec) error {
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", spec.Hostname, err)
		}
	}
	if spec.Domainname != "" {
		if err := unix.Setdomainname([]byte(spec.Domainname)); err != nil {
			return fmt.Errorf("set domainname %q: %w", spec.Domainname, err)
		}
	}
	return nil
}

// IsTheVMs says whether a sysctl is for the agent to set, before the container is made: one of the VM's network, which
// the users of a container with a user namespace have no power over.
func IsTheVMs(l *specs.Linux, key string) bool {
	name, _ := sysctlPath(key)
	return strings.HasPrefix(name, "net/") && hasNamespace(l.Namespaces, specs.UserNamespace) && !hasNamespace(l.Namespaces, specs.NetworkNamespace)
}

// SetSysctl writes through the guest's /proc, which shows each namespaced value of the calling thread; so it
// needs none in the container, and none that a container could have redirected (CVE-2025-52881). A value that
// belongs to no namespace is the guest's, and changes for all containers of the VM.
func SetSysctl(key, value string) error {
	name, err := sysctlPath(key)
	if err == nil {
		err = os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

// sysctlPath is the file of a key. As in sysctl(8), the first separator decides: after a dot, dots separate and
// slashes stand for dots in names; after a slash, both are what they look like.
func sysctlPath(key string) (string, error) {
	i := strings.IndexAny(key, "./")
	name := key
	if i >= 0 && key[i] == '.' {
		name = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return "", errors.New("not a sysctl key")
		}
	}
	return name, nil
}
