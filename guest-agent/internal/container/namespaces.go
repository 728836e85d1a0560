package container

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/huskvm/husk/guest-agent/internal/process"
	"github.com/huskvm/husk/guest-agent/internal/stage"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ofContainer begins the path of a namespace that is another container's, by its id: the pods of Kubernetes share
// some, and the host has no path for what is in the guest.
const ofContainer = "container:"

// checkNamespaces refuses what can't be made, and what needs a namespace that is not asked for.
func checkNamespaces(l *specs.Linux) error {
	has := map[specs.LinuxNamespaceType]specs.LinuxNamespace{}
	for _, n := range l.Namespaces {
		if _, ok := stage.CloneFlag(n.Type); !ok {
			return fmt.Errorf("a namespace of type %q is not supported in a guest", n.Type)
		}
		if _, twice := has[n.Type]; twice {
			return fmt.Errorf("the %s namespace is given twice", n.Type)
		}
		has[n.Type] = n
	}
	if has[specs.MountNamespace].Path != "" {
		// pivot_root in it would take the root from under those who live there.
		return errors.New("a container's mount namespace is always its own: its path can't be given")
	}
	_, user := has[specs.UserNamespace]
	switch mapped := len(l.UIDMappings) > 0 && len(l.GIDMappings) > 0; {
	case user && !mapped:
		return errors.New("a user namespace needs uidMappings and gidMappings")
	case !user && len(l.UIDMappings)+len(l.GIDMappings) > 0:
		return errors.New("uidMappings and gidMappings need a user namespace")
	}
	t, own := has[specs.TimeNamespace]
	if len(l.TimeOffsets) > 0 && (!own || t.Path != "") {
		return errors.New("timeOffsets need a new time namespace")
	}
	_, err := timeOffsets(l.TimeOffsets)
	return err
}

// clocks are those of timens_offsets(5).
var clocks = []string{"monotonic", "boottime"}

// timeOffsets are the lines of timens_offsets(5).
func timeOffsets(offsets map[string]specs.LinuxTimeOffset) (string, error) {
	var text strings.Builder
	for clock, o := range offsets {
		if !slices.Contains(clocks, clock) {
			return "", fmt.Errorf("timeOffsets: there is no clock %q, but monotonic and boottime", clock)
		}
		fmt.Fprintf(&text, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	return text.String(), nil
}

// placement is the namespaces a process is born in. The files are closed by close.
type placement struct {
	clone uintptr
	join  []process.Namespace
	user  *process.UserNamespace
	time  *process.TimeNamespace
	files []*os.File
}

func (p *placement) close() {
	for _, f := range p.files {
		f.Close()
	}
}

// initPlacement is where a container's init is born. The mount namespace is always new, even when none is asked for:
// the root is pivoted in it. A new cgroup namespace waits until the process is in its cgroup.
func initPlacement(l *specs.Linux, initOf func(id string) (pid int, err error)) (*placement, error) {
	p := &placement{clone: unix.CLONE_NEWNS}
	if l == nil {
		return p, nil
	}
	for _, n := range l.Namespaces {
		if err := p.add(l, n, initOf); err != nil {
			p.close()
			return nil, fmt.Errorf("%s namespace %s: %w", n.Type, n.Path, err)
		}
	}
	return p, nil
}

func (p *placement) add(l *specs.Linux, n specs.LinuxNamespace, initOf func(id string) (int, error)) error {
	flag, _ := stage.CloneFlag(n.Type)
	var file *os.File
	if n.Path != "" {
		path := n.Path
		if id, ok := strings.CutPrefix(path, ofContainer); ok {
			pid, err := initOf(id)
			if err != nil {
				return err
			}
			path = "/proc/" + strconv.Itoa(pid) + "/ns/" + procName(n.Type)
		}
		var err error
		if file, err = os.Open(path); err != nil {
			return err
		}
		p.files = append(p.files, file)
	}
	switch {
	case n.Type == specs.UserNamespace:
		p.user = &process.UserNamespace{File: file, UIDs: l.UIDMappings, GIDs: l.GIDMappings}
		_, _, err := p.user.Root()
		return err
	case n.Type == specs.TimeNamespace:
		text, err := timeOffsets(l.TimeOffsets)
		p.time = &process.TimeNamespace{File: file, Offsets: text}
		return err
	case file != nil:
		p.join = append(p.join, process.Namespace{File: file, Flag: flag})
	case n.Type != specs.CgroupNamespace:
		p.clone |= uintptr(flag)
	}
	return nil
}

// procName is a namespace's file in /proc/PID/ns.
func procName(t specs.LinuxNamespaceType) string {
	switch t {
	case specs.MountNamespace:
		return "mnt"
	case specs.NetworkNamespace:
		return "net"
	}
	return string(t)
}

// Namespaces that any process may enter, where they are not owned by a user namespace it has left.
const ordinary = unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// execPlacement is where a process is born that joins the container of init, and which of the namespaces its stage
// joins by itself: the mount namespace, in which the stage could not be executed, and whatever else does not need
// the agent's privileges.
func execPlacement(l *specs.Linux, init *os.File) (p *placement, rest int) {
	p = &placement{join: []process.Namespace{{File: init, Flag: unix.CLONE_NEWPID}}}
	rest = ordinary | unix.CLONE_NEWNS
	if l == nil {
		return p, rest
	}
	for _, n := range l.Namespaces {
		switch n.Type {
		case specs.UserNamespace:
			p.user = &process.UserNamespace{File: init, UIDs: l.UIDMappings, GIDs: l.GIDMappings}
			p.join[0].Flag |= ordinary
			rest = unix.CLONE_NEWNS
		case specs.TimeNamespace:
			p.time = &process.TimeNamespace{File: init}
		}
	}
	return p, rest
}

// cgroupOwner is the user of the guest who is to own the container's cgroup, if anyone but the guest's root is: the
// one of its process, where the cgroup is mounted writable in a cgroup namespace of its own (config-linux.md,
// cgroup ownership).
func cgroupOwner(s *specs.Spec) (uid int, owned bool) {
	own := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.CgroupNamespace && n.Path == ""
	})
	writable := slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool {
		return (m.Type == "cgroup" || m.Type == "cgroup2") && !slices.Contains(m.Options, "ro")
	})
	if !own || !writable {
		return 0, false
	}
	inside := s.Process.User.UID
	if len(s.Linux.UIDMappings) == 0 {
		return int(inside), inside != 0
	}
	for _, m := range s.Linux.UIDMappings {
		if inside >= m.ContainerID && inside-m.ContainerID < m.Size {
			return int(m.HostID + inside - m.ContainerID), true
		}
	}
	return 0, false
}
