// Package guest is the test host's half inside the virtual machine. The program starts it when it finds itself
// running as init; nothing of it may ever run on the machine itself, since it mounts, kills and powers off.
//
// Boot is PID 1: it loads modules, builds the root, and then either runs the command itself or hands over to
// systemd, whose service calls Serve. In both cases the same code runs the command and reports its end.
package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/wire"
)

// stateDir holds what Serve needs: the program and the specification.
const stateDir = "/run/husk-host"

// ServiceProgram is the name under which systemd's service starts the program.
const ServiceProgram = stateDir + "/init"

// Boot is the guest's init. It does not return.
func Boot() {
	port, err := boot()
	finish(port, err)
}

// Serve runs the command of a guest that systemd has booted. It does not return.
func Serve() {
	port, err := serve()
	finish(port, err)
}

// finish reports why the command could not be run, if so, and powers off.
func finish(port *port, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "husk test host: %v\n", err)
		if port != nil {
			port.fail(err)
		}
	}
	powerOff()
}

func boot() (*port, error) {
	syscall.Umask(0o022)
	if err := mountEarly(); err != nil {
		return nil, err
	}
	spec, err := readSpec("/" + wire.SpecFile)
	if err != nil {
		return nil, err
	}
	loader, err := newLoader("/"+wire.ModuleDir, spec.Verbose)
	if err != nil {
		return nil, err
	}
	if err := loader.load(spec.Boot); err != nil {
		return nil, err
	}
	port, err := openPort()
	if err != nil {
		return nil, err
	}
	port.mark(wire.MarkInit)
	program, err := os.ReadFile("/" + wire.InitFile)
	if err != nil {
		return port, fmt.Errorf("read init: %w", err)
	}
	if err := enterRoot(spec); err != nil {
		return port, err
	}
	if err := loader.load(spec.More); err != nil {
		return port, err
	}
	loader.discard()
	if err := setUp(spec); err != nil {
		return port, err
	}
	if spec.Init == wire.InitSystemd {
		return port, handOver(port, spec, program)
	}
	if err := holdVM(); err != nil {
		return port, err
	}
	port.mark(wire.MarkReady)
	return port, run(port, spec)
}

func serve() (*port, error) {
	port, err := openPort()
	if err != nil {
		return nil, err
	}
	spec, err := readSpec(filepath.Join(stateDir, wire.SpecFile))
	if err != nil {
		return port, err
	}
	if err := holdVM(); err != nil {
		return port, err
	}
	port.mark(wire.MarkReady)
	return port, run(port, spec)
}

// setUp is everything between having the root and running something in it.
func setUp(spec *wire.Spec) error {
	if err := mountFresh(); err != nil {
		return err
	}
	if err := mountShares(spec.Shares); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set hostname %s: %w", spec.Hostname, err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if spec.Init == wire.InitSystemd {
		return nil
	}
	if err := mountCgroups(cgroupRoot, spec.Cgroup); err != nil {
		return err
	}
	return raiseLimits()
}

// raiseLimits gives what a service manager gives a container runtime: the kernel's defaults are for a login shell.
func raiseLimits() error {
	limits := map[int]uint64{
		unix.RLIMIT_NOFILE:  1 << 20,
		unix.RLIMIT_MEMLOCK: unix.RLIM_INFINITY,
		unix.RLIMIT_NPROC:   unix.RLIM_INFINITY,
	}
	for resource, limit := range limits {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("set resource limit %d: %w", resource, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket to bring lo up: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name lo: %w", err)
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

func readSpec(path string) (*wire.Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read specification: %w", err)
	}
	spec := new(wire.Spec)
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("decode specification %s: %w", path, err)
	}
	return spec, nil
}

// powerOff ends the virtual machine. What lasts is on writable shares, so these are written out first.
func powerOff() {
	unix.Sync()
	unmountShares()
	// The call returns only upon an error, and then the kernel's panic over a dead init ends the machine.
	fmt.Fprintf(os.Stderr, "husk test host: power off: %v\n", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	os.Exit(1)
}
