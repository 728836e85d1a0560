package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountFlags are the options of mount(8) that are flags of mount(2); the others go to the file system.
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"strictatime": unix.MS_STRICTATIME, "sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC,
	"lazytime": unix.MS_LAZYTIME, "rw": 0, "defaults": 0,
}

// mountAll mounts what the container is made of, and answers what undoes it.
func mountAll(spec *specs.Spec, list []*agentv1.Storage) (undo func() error, err error) {
	storages, err := mountStorages(list)
	if err != nil {
		return nil, err
	}
	shares := holdShares(spec)
	return func() error { return errors.Join(shares(), storages()) }, nil
}

// mountStorages mounts the storages in order and answers what undoes it.
func mountStorages(list []*agentv1.Storage) (undo func() error, err error) {
	var targets, devices []string
	undo = func() error {
		var errs []error
		for i := len(targets) - 1; i >= 0; i-- {
			if err := unix.Unmount(targets[i], 0); err != nil {
				errs = append(errs, fmt.Errorf("unmount storage %s: %w", targets[i], err))
			}
		}
		for _, d := range devices {
			errs = append(errs, awaitRelease(d, releaseTime))
		}
		return errors.Join(errs...)
	}
	for _, s := range list {
		device, err := mountStorage(s)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("storage %q on %s: %w", s.GetSerial(), s.GetTarget(), err), undo())
		}
		targets = append(targets, s.GetTarget())
		if s.GetSerial() != "" {
			devices = append(devices, device)
		}
	}
	return undo, nil
}

// releaseTime is how long a disk may stay in use once it is unmounted: the stage of another container has a copy of the
// agent's mounts until it has its own root.
const releaseTime = 10 * time.Second

// awaitRelease waits until a disk is mounted nowhere any more. Then all of it has been written, and the host may take it.
func awaitRelease(device string, within time.Duration) error {
	for end := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			return unix.Close(fd)
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) {
			return nil // it is gone
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is still in use after its unmount: %w", device, err)
		}
	}
}

// mountStorage answers what it has mounted.
func mountStorage(s *agentv1.Storage) (device string, err error) {
	if !filepath.IsAbs(s.GetTarget()) {
		return "", errors.New("the target is not an absolute path")
	}
	device = s.GetFstype()
	if s.GetSerial() != "" {
		if device, err = findDevice(s.GetSerial()); err != nil {
			return "", err
		}
		if err := settle(device, s); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(s.GetTarget(), 0o755); err != nil {
		return "", err
	}
	flags, data := splitOptions(s.GetOptions())
	return device, unix.Mount(device, s.GetTarget(), s.GetFstype(), flags, data)
}

func splitOptions(options []string) (uintptr, string) {
	var flags uintptr
	var data []string
	for _, o := range options {
		if f, ok := mountFlags[o]; ok {
			flags |= f
		} else {
			data = append(data, o)
		}
	}
	return flags, strings.Join(data, ",")
}

// findDevice is the block device with a serial number; the kernel's names depend on the order of the devices.
func findDevice(serial string) (string, error) {
	files, err := filepath.Glob("/sys/block/*/serial")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && strings.TrimRight(string(text), "\n\x00") == serial {
			return "/dev/" + filepath.Base(filepath.Dir(f)), nil
		}
	}
	return "", errors.New("there is no such block device")
}
