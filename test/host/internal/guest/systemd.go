package guest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/huskvm/husk/test/host/internal/wire"
)

const unitDir = "/etc/systemd/system"

// Target is the unit that a host with systemd boots to. It takes the place of multi-user.target, so nothing of
// what the machine has enabled there (databases, its containerd, logins) starts.
const Target = "husk-host.target"

// masked units do work that is slow here or foreign to a test host: tmpfiles-setup walks the machine's /tmp for
// minutes, udev's coldplug emulates every uevent, the rest wants hardware, a network or a console.
var masked = []string{
	"systemd-tmpfiles-setup.service", "systemd-tmpfiles-clean.timer", "systemd-tmpfiles-clean.service",
	"systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
	"systemd-udev-trigger.service", "systemd-udev-settle.service", "systemd-hwdb-update.service",
	"systemd-firstboot.service", "systemd-machine-id-commit.service", "systemd-update-done.service",
	"systemd-random-seed.service", "systemd-modules-load.service", "systemd-binfmt.service",
	"systemd-timesyncd.service", "systemd-pstore.service", "systemd-logind.service", "systemd-networkd.service",
	"systemd-resolved.service", "systemd-journal-flush.service", "systemd-update-utmp.service",
	"getty.target", "getty@tty1.service", "serial-getty@ttyS0.service", "console-getty.service",
	"keyboard-setup.service", "console-setup.service", "networking.service", "ldconfig.service",
	"apparmor.service", "rescue.service", "dev-hugepages.mount",
}

const targetUnit = `[Unit]
Description=husk test host
Requires=sysinit.target dbus.socket husk-host.service
After=sysinit.target dbus.socket
AllowIsolate=yes
`

// The service is an ordinary one: it has a cgroup of its own below system.slice and a bus, like a container
// runtime's. When it ends without having powered off, systemd does, and the missing status is noticed outside.
const serviceUnit = `[Unit]
Description=The command of the husk test host
Requires=dbus.socket
After=dbus.socket
FailureAction=poweroff-immediate
SuccessAction=poweroff-immediate
[Service]
Type=exec
ExecStart=` + ServiceProgram + `
StandardInput=null
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
Delegate=yes
KillMode=process
OOMPolicy=continue
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
LimitMEMLOCK=infinity
TasksMax=infinity
`

// A boot that systemd gives up on must end, and say so on the console.
const emergencyUnit = `[Unit]
Description=End of a husk test host that did not come up
DefaultDependencies=no
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
ExecStart=-/bin/echo husk test host: systemd fell into emergency mode
ExecStart=-/bin/systemctl --failed --no-pager
ExecStart=-/bin/journalctl -b -n 60 --no-pager
`

// handOver turns PID 1 into the machine's systemd. It returns only with an error.
func handOver(p *port, spec *wire.Spec, program []byte) error {
	systemd, err := findSystemd()
	if err != nil {
		return err
	}
	if err := prepareRoot(spec); err != nil {
		return err
	}
	if err := writeState(spec, program); err != nil {
		return err
	}
	if err := writeUnits(unitDir); err != nil {
		return err
	}
	if err := p.file.Close(); err != nil {
		return fmt.Errorf("close port: %w", err)
	}
	err = syscall.Exec(systemd, []string{systemd}, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
	// The port is closed, so only the console can tell.
	return fmt.Errorf("exec %s: %w", systemd, err)
}

func findSystemd() (string, error) {
	for _, path := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("find systemd: not on this machine; install systemd and dbus")
}

// containerMarks make systemd believe that it runs in a container, where it ignores the kernel's command line.
// The machine may be one; the host is none.
var containerMarks = []string{"/.dockerenv", "/.containerenv"}

// prepareRoot takes from the machine's root what would lead systemd astray.
func prepareRoot(spec *wire.Spec) error {
	for _, path := range containerMarks {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	// A machine without an id would be a first boot, with presets applied and questions asked.
	id := make([]byte, 16)
	rand.Read(id)
	names := map[string]string{"/etc/machine-id": hex.EncodeToString(id), "/etc/hostname": spec.Hostname}
	for path, content := range names {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("replace %s: %w", path, err)
		}
		if err := os.WriteFile(path, []byte(content+"\n"), 0o644); err != nil {
			return fmt.Errorf("replace %s: %w", path, err)
		}
	}
	return nil
}

// writeState leaves for Serve what the initramfs held.
func writeState(spec *wire.Spec, program []byte) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode specification: %w", err)
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(stateDir, wire.SpecFile), data, 0o600); err != nil {
		return fmt.Errorf("write specification: %w", err)
	}
	if err := os.WriteFile(ServiceProgram, program, 0o700); err != nil {
		return fmt.Errorf("write program: %w", err)
	}
	return nil
}

// writeUnits writes our units, masks the foreign ones and undoes what the machine has enabled.
func writeUnits(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make unit directory: %w", err)
	}
	for _, pattern := range []string{"*.wants", "*.requires"} {
		enabled, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return fmt.Errorf("list enabled units: %w", err)
		}
		for _, path := range enabled {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("disable %s: %w", filepath.Base(path), err)
			}
		}
	}
	for _, name := range masked {
		path := filepath.Join(dir, name)
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
		if err := os.Symlink(os.DevNull, path); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	units := map[string]string{
		Target:              targetUnit,
		"husk-host.service": serviceUnit,
		"emergency.service": emergencyUnit,
	}
	for name, content := range units {
		path := filepath.Join(dir, name)
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("write unit %s: %w", name, err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("write unit %s: %w", name, err)
		}
	}
	return nil
}
