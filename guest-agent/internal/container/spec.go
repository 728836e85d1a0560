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
	if err := checkHooks(s.Hooks); err != nil {
		return nil, err
	}
	if s.Linux == nil {
		return &s, nil
	}
	if err := checkNamespaces(s.Linux); err != nil {
		return nil, fmt.Errorf("spec: linux: %w", err)
	}
	if len(s.Linux.NetDevices) > 0 {
		return nil, errors.New("spec: linux.netDevices are the host's, and can't be moved into a guest")
	}
	return &s, nil
}

// checkHooks refuses those that belong to the host's side, and those that can't be run.
func checkHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	//lint:ignore SA1019 prestart is deprecated, but engines still set it
	n := len(h.Prestart) + len(h.CreateRuntime) + len(h.Poststart) + len(h.Poststop)
	if n > 0 {
		return errors.New("spec: hooks other than createContainer and startContainer can't run in a guest")
	}
	for _, h := range append(h.CreateContainer[:len(h.CreateContainer):len(h.CreateContainer)], h.StartContainer...) {
		if !filepath.IsAbs(h.Path) {
			return fmt.Errorf("spec: hook %q: its path must be absolute", h.Path)
		}
		if h.Timeout != nil && *h.Timeout <= 0 {
			return fmt.Errorf("spec: hook %s: its timeout must be more than 0", h.Path)
		}
	}
	return nil
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
	if err := stage.CheckRlimits(p.Rlimits); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	return nil
}

// inherit completes an exec's process by the container's: what is not said is as for its init, as in runc.
func inherit(p, from *specs.Process) {
	if p.Capabilities == nil {
		p.Capabilities = from.Capabilities
	}
	if len(p.Rlimits) == 0 {
		p.Rlimits = from.Rlimits
	}
	if p.OOMScoreAdj == nil {
		p.OOMScoreAdj = from.OOMScoreAdj
	}
	if p.Scheduler == nil {
		p.Scheduler = from.Scheduler
	}
	if p.IOPriority == nil {
		p.IOPriority = from.IOPriority
	}
	if p.ExecCPUAffinity == nil {
		p.ExecCPUAffinity = from.ExecCPUAffinity
	}
	if p.User.Umask == nil {
		p.User.Umask = from.User.Umask
	}
}
