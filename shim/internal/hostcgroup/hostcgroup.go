// Package hostcgroup places a sandbox's VMM in the cgroup that the orchestrator named, on cgroup v1, hybrid and
// v2, through cgroupfs or systemd. The containers' own limits are applied in the guest; here the sandbox as a
// whole is bounded and accounted.
package hostcgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// Cgroup is one that the sandbox uses. The zero path is none: its methods do nothing then.
type Cgroup struct {
	path    string
	manager cgroups.Manager
}

// New prepares the cgroup that cgroupsPath names as in the OCI runtime-spec: a path, or "slice:prefix:name" for
// a systemd scope. Empty is none. memory is the limit in bytes for the whole sandbox; 0 is none.
func New(cgroupsPath string, memory uint64) (*Cgroup, error) {
	if cgroupsPath == "" {
		return &Cgroup{}, nil
	}
	config, err := parse(cgroupsPath)
	if err != nil {
		return nil, err
	}
	config.Resources = &cgroups.Resources{Memory: int64(memory), SkipDevices: true, SkipFreezeOnSet: true}
	m, err := manager.New(config)
	if err != nil {
		return nil, fmt.Errorf("use cgroup %s: %w", cgroupsPath, err)
	}
	return &Cgroup{path: cgroupsPath, manager: m}, nil
}

// parse reads a linux.cgroupsPath. A relative path is one below the hierarchies' roots, whoever asks.
func parse(cgroupsPath string) (*cgroups.Cgroup, error) {
	parts := strings.Split(cgroupsPath, ":")
	switch len(parts) {
	case 1:
		clean := path.Join("/", cgroupsPath)
		if clean == "/" {
			return nil, fmt.Errorf("cgroup path %q is the root of the hierarchy", cgroupsPath)
		}
		return &cgroups.Cgroup{Path: clean}, nil
	case 3:
		if parts[2] == "" {
			return nil, fmt.Errorf("cgroup path %q names no systemd unit: it must be slice:prefix:name", cgroupsPath)
		}
		return &cgroups.Cgroup{Parent: parts[0], ScopePrefix: parts[1], Name: parts[2], Systemd: true}, nil
	}
	return nil, fmt.Errorf("cgroup path %q is neither a path nor slice:prefix:name", cgroupsPath)
}

// Add creates the cgroup when it is missing, puts the process in, and sets the limits.
func (c *Cgroup) Add(pid int) error {
	if c.manager == nil {
		return nil
	}
	if err := c.manager.Apply(pid); err != nil {
		return fmt.Errorf("put the VMM into cgroup %s: %w", c.path, err)
	}
	// systemd has been seen to report success without having moved the process, or into some hierarchies only.
	for _, dir := range c.manager.GetPaths() {
		if !cgroups.PathExists(dir) {
			continue // a controller that is not used here
		}
		pids, err := cgroups.GetPids(dir)
		if err == nil && !slices.Contains(pids, pid) {
			err = cgroups.WriteCgroupProc(dir, pid)
		}
		if err != nil {
			return fmt.Errorf("put the VMM into cgroup %s: %w", dir, err)
		}
	}
	if err := c.manager.Set(nil); err != nil {
		return fmt.Errorf("limit cgroup %s: %w", c.path, err)
	}
	return nil
}

// Remove removes the cgroup, which must be empty or about to be. One that is gone is no error.
func (c *Cgroup) Remove() error {
	if c.manager == nil {
		return nil
	}
	if err := c.manager.Destroy(); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", c.path, err)
	}
	return nil
}

// OOMKilled says whether the kernel killed in the cgroup for want of memory.
func (c *Cgroup) OOMKilled() bool {
	if c.manager == nil {
		return false
	}
	n, err := c.manager.OOMKillCount()
	return err == nil && n > 0
}

// Unified says whether the host has only cgroup v2, which decides the type of metrics its clients expect.
func Unified() bool {
	var stat unix.Statfs_t
	for {
		err := unix.Statfs("/sys/fs/cgroup", &stat)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
		}
	}
}
