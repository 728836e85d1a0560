// Package hostcgroup places a sandbox's VMM in the cgroup that the orchestrator named, on cgroup v1, hybrid and
// v2, through cgroupfs or systemd. The containers' own limits are applied in the guest; here the sandbox as a
// whole is bounded and accounted.
package hostcgroup

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Cgroup is one that the sandbox uses. The zero path is none: its methods do nothing then.
type Cgroup struct {
	path    string
	manager cgroups.Manager
	limits  Limits
	watch   *watch // nil without the memory controller
	missing []string
}

// Limits are what the host holds the sandbox to as a whole. Zero values are none.
type Limits struct {
	Memory uint64 // bytes
	Cpus   string // the host's CPUs, as cpuset.cpus has them
	Mems   string // the host's memory nodes
	Shares uint64 // of CPU, as cgroup v1 counts them
	IO     *specs.LinuxBlockIO
}

// ErrNoSystemd is of a cgroup that is systemd's to make, where there is none.
var ErrNoSystemd = errors.New("systemd does not run on this host: " +
	"let the engine use the cgroupfs driver (cgroupDriver of the kubelet, cgroup_manager of CRI-O, native.cgroupdriver of docker; " +
	"no SystemdCgroup in the options of containerd's runtime)")

// CheckDriver says whether a cgroupsPath has the form that the runtime option SystemdCgroup promises. A path that is not
// systemd's would escape the slice that systemd keeps the pod in.
func CheckDriver(cgroupsPath string, systemd bool) error {
	if systemd && strings.Count(cgroupsPath, ":") != 2 {
		return fmt.Errorf("SystemdCgroup is set, but cgroup path %q is not slice:prefix:name: "+
			"unset SystemdCgroup, or let the engine use the systemd driver", cgroupsPath)
	}
	return nil
}

// New prepares the cgroup that cgroupsPath names as in the OCI runtime-spec: a path, or "slice:prefix:name" for
// a systemd scope. Empty is none.
func New(cgroupsPath string, limits Limits) (*Cgroup, error) {
	if cgroupsPath == "" {
		return &Cgroup{}, nil
	}
	config, err := parse(cgroupsPath)
	if err != nil {
		return nil, err
	}
	if config.Systemd && !systemd.IsRunningSystemd() {
		return nil, fmt.Errorf("use cgroup %s: %w", cgroupsPath, ErrNoSystemd)
	}
	config.Resources = limits.resources()
	m, err := manager.New(config)
	if err != nil {
		return nil, fmt.Errorf("use cgroup %s: %w", cgroupsPath, err)
	}
	return &Cgroup{path: cgroupsPath, manager: m, limits: limits}, nil
}

func (l Limits) resources() *cgroups.Resources {
	r := &cgroups.Resources{
		Memory: int64(l.Memory), CpusetCpus: l.Cpus, CpusetMems: l.Mems,
		CpuShares: l.Shares, CpuWeight: cgroups.ConvertCPUSharesToCgroupV2Value(l.Shares),
		SkipDevices: true, SkipFreezeOnSet: true,
	}
	if io := l.IO; io != nil {
		if io.Weight != nil {
			r.BlkioWeight = *io.Weight
		}
		r.BlkioThrottleReadBpsDevice, r.BlkioThrottleWriteBpsDevice = throttles(io.ThrottleReadBpsDevice), throttles(io.ThrottleWriteBpsDevice)
		r.BlkioThrottleReadIOPSDevice, r.BlkioThrottleWriteIOPSDevice = throttles(io.ThrottleReadIOPSDevice), throttles(io.ThrottleWriteIOPSDevice)
	}
	return r
}

func throttles(list []specs.LinuxThrottleDevice) (out []*cgroups.ThrottleDevice) {
	for _, d := range list {
		out = append(out, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
	}
	return out
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

// Add creates the cgroup when it is missing, puts the process in, and sets the limits. Of those, one whose controller
// the host lacks is left out; Missing has its name.
func (c *Cgroup) Add(pid int) error {
	if c.manager == nil {
		return nil
	}
	if err := c.inTime(func() error { return c.manager.Apply(pid) }); err != nil {
		return fmt.Errorf("put the VMM into cgroup %s: %w%s", c.path, err, c.remedy())
	}
	if err := c.AddAlso(pid); err != nil {
		return err
	}
	if dir := c.dir("memory", eventsV2, eventsV1); dir != "" {
		var err error
		if c.watch, err = watchOOM(dir); err != nil {
			return err
		}
	}
	return c.set()
}

// AddAlso puts a further process into the cgroup. It is a part of Add because systemd has been seen to report success
// without having moved the process, or into some hierarchies only.
func (c *Cgroup) AddAlso(pid int) error {
	if c.manager == nil {
		return nil
	}
	for _, dir := range c.manager.GetPaths() {
		if !cgroups.PathExists(dir) {
			continue // a controller that is not used here
		}
		pids, err := cgroups.GetPids(dir)
		if err == nil && !slices.Contains(pids, pid) {
			err = cgroups.WriteCgroupProc(dir, pid)
		}
		if err != nil {
			return fmt.Errorf("put process %d into cgroup %s: %w", pid, dir, err)
		}
	}
	return nil
}

// remedy is for an error of systemd's, which may be there and not to be talked to.
func (c *Cgroup) remedy() string {
	if !strings.Contains(c.path, ":") {
		return ""
	}
	return ": husk asks systemd for the scope over D-Bus, as the path's form slice:prefix:name wants it; " +
		"see that systemd answers (systemctl status), or let the engine use the cgroupfs driver"
}

// Update replaces the limits that are not zero.
func (c *Cgroup) Update(l Limits) error {
	if c.manager == nil {
		return nil
	}
	was := c.limits
	c.limits = Limits{
		Memory: cmp.Or(l.Memory, was.Memory), Cpus: cmp.Or(l.Cpus, was.Cpus),
		Mems: cmp.Or(l.Mems, was.Mems), Shares: cmp.Or(l.Shares, was.Shares), IO: cmp.Or(l.IO, was.IO),
	}
	if c.limits == was {
		return nil
	}
	if err := c.set(); err != nil {
		c.limits = was
		return err
	}
	return nil
}

// Missing are the controllers that the host lacks and a limit wanted.
func (c *Cgroup) Missing() []string { return c.missing }

func (c *Cgroup) set() error {
	l := c.limits
	c.missing = nil
	lacks := func(wanted bool, controller string, files ...string) bool {
		if wanted && !c.has(controller, files...) {
			c.missing = append(c.missing, controller)
		}
		return slices.Contains(c.missing, controller)
	}
	if lacks(l.Memory > 0, "memory", "memory.limit_in_bytes", "memory.max") {
		l.Memory = 0
	}
	if lacks(l.Cpus != "" || l.Mems != "", "cpuset", "cpuset.cpus") {
		l.Cpus, l.Mems = "", ""
	}
	if lacks(l.Shares > 0, "cpu", "cpu.shares", "cpu.weight") {
		l.Shares = 0
	}
	if lacks(l.IO != nil, "blkio", "blkio.throttle.read_bps_device", "io.max") {
		l.IO = nil
	}
	if l.IO != nil && l.IO.Weight != nil && !c.has("blkio", "blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight") {
		c.missing = append(c.missing, "blkio's weights")
		without := *l.IO
		without.Weight, l.IO = nil, &without
	}
	if err := c.manager.Set(l.resources()); err != nil {
		return fmt.Errorf("limit cgroup %s: %w", c.path, err)
	}
	return nil
}

// has says whether the cgroup has one of a controller's files. On cgroup v1 a controller that is disabled leaves a
// directory that is no cgroup, and has none.
func (c *Cgroup) has(controller string, files ...string) bool {
	return c.dir(controller, files...) != ""
}

// dir is where one of a controller's files is; empty where none is.
func (c *Cgroup) dir(controller string, files ...string) string {
	paths := c.manager.GetPaths()
	dir := paths[controller]
	if dir == "" && Unified() {
		dir = paths[""]
	}
	if dir == "" || !slices.ContainsFunc(files, func(f string) bool { return cgroups.PathExists(filepath.Join(dir, f)) }) {
		return ""
	}
	return dir
}

// Remove removes the cgroup, which must be empty or about to be. One that is gone is no error.
func (c *Cgroup) Remove() error {
	if c.manager == nil {
		return nil
	}
	if c.watch != nil {
		c.watch.end()
	}
	for end := time.Now().Add(leaveTime); ; time.Sleep(20 * time.Millisecond) {
		err := c.inTime(c.manager.Destroy)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("remove cgroup %s: %w", c.path, err)
		}
	}
}

// answerTime is what systemd may take to answer.
const answerTime = 20 * time.Second

// inTime bounds a call that may wait for systemd, which the library does without a bound. One that comes back later finds
// nobody.
func (c *Cgroup) inTime(f func() error) error {
	if !strings.Contains(c.path, ":") {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(answerTime):
		return fmt.Errorf("systemd does not answer within %s", answerTime)
	}
}

// leaveTime is what processes that have been killed may take to leave the cgroup: a QEMU gives its guest's memory back
// first, and on a busy host that takes longer than the library waits.
const leaveTime = 10 * time.Second

// Remove removes the cgroup that cgroupsPath names, if there is one.
func Remove(cgroupsPath string) error {
	c, err := New(cgroupsPath, Limits{})
	if errors.Is(err, ErrNoSystemd) {
		return nil // which then has made none
	}
	if err != nil {
		return err
	}
	return c.Remove()
}

// Join puts a process into a cgroup of the administrator's, which is made when it is missing and never removed.
func Join(cgroupsPath string, pid int) error {
	if strings.Contains(cgroupsPath, ":") {
		return fmt.Errorf("cgroup path %q is systemd's: a process can join a plain path only", cgroupsPath)
	}
	c, err := New(cgroupsPath, Limits{})
	if err != nil || c.manager == nil {
		return err
	}
	if err := c.manager.Apply(pid); err != nil {
		return fmt.Errorf("join cgroup %s: %w", cgroupsPath, err)
	}
	return nil
}

// OOMKilled says whether the kernel has killed in the cgroup for want of memory since Add. It is asked when the VMM has
// ended: the cgroup need not be there any more.
func (c *Cgroup) OOMKilled() bool {
	if c.watch == nil {
		return false
	}
	c.watch.end()
	return c.watch.killed()
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
