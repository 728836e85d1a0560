// Package container keeps the containers of the guest: what they are made of, their processes, and their end. It
// is called by package agent, whose requests it carries out.
package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/huskvm/husk/guest-agent/internal/stage"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// parseSpec reads config.json and refuses what a guest can't do: a container never runs with less than it was
// to have.
func parseSpec(text []byte) (*specs.Spec, error) {
	var s specs.Spec
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("parse spec: %w", err)
	}
	switch {
	case s.Process == nil:
		return nil, errors.New("spec: process is missing")
	case s.Root == nil || !filepath.IsAbs(s.Root.Path):
		return nil, errors.New("spec: root.path must be an absolute path of the guest")
	}
	if err := checkProcess(s.Process); err != nil {
		return nil, err
	}
	if h := s.Hooks; h != nil {
		//lint:ignore SA1019 Prestart is deprecated, but engines still set it
		n := len(h.Prestart) + len(h.CreateRuntime) + len(h.CreateContainer) + len(h.StartContainer) +
			len(h.Poststart) + len(h.Poststop)
		if n > 0 {
			return nil, errors.New("spec: hooks can't run in a guest")
		}
	}
	if s.Linux == nil {
		return &s, nil
	}
	seen := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		if _, ok := stage.CloneFlag(n.Type); !ok {
			return nil, fmt.Errorf("spec: a namespace of type %q is not supported in a guest", n.Type)
		}
		if seen[n.Type] {
			return nil, fmt.Errorf("spec: the %s namespace is given twice", n.Type)
		}
		seen[n.Type] = true
		if n.Type == specs.MountNamespace && n.Path != "" {
			return nil, errors.New("spec: a container's mount namespace is always its own")
		}
	}
	if len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0 {
		return nil, errors.New("spec: user namespaces are not supported in a guest")
	}
	return &s, nil
}

func parseProcess(text []byte) (*specs.Process, error) {
	var p specs.Process
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fmt.Errorf("parse process: %w", err)
	}
	return &p, checkProcess(&p)
}

func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return errors.New("spec: process.args must not be empty")
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("spec: process.cwd %q is not an absolute path", p.Cwd)
	}
	return nil
}

// cloneFlags are the new namespaces of the specification that clone(2) is to make, and the path of the pid
// namespace if it is to be an existing one. The mount namespace is always new, even when none is asked for: the
// root is pivoted in it. The cgroup namespace waits until the process is in its cgroup.
func cloneFlags(linux *specs.Linux) (flags uintptr, pidPath string) {
	flags = unix.CLONE_NEWNS
	if linux == nil {
		return flags, ""
	}
	for _, n := range linux.Namespaces {
		switch {
		case n.Type == specs.PIDNamespace && n.Path != "":
			pidPath = n.Path
		case n.Path != "" || n.Type == specs.CgroupNamespace:
		default:
			f, _ := stage.CloneFlag(n.Type)
			flags |= uintptr(f)
		}
	}
	return flags, pidPath
}
