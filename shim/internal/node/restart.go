package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// restart restarts an engine through the host's systemd. Containers go on meanwhile. An engine that does not run, or that
// is somebody else's to start, is left to whoever starts it.
func (n *Node) restart(unit string) error {
	if _, err := os.Stat(n.path("/run/systemd/system")); err != nil {
		n.say("systemd does not run here: restart %s to let it know", unit)
		return nil
	}
	if n.systemctl("is-active", "--quiet", unit) != nil {
		n.say("%s does not run as a unit of systemd: it will know when it starts", unit)
		return nil
	}
	if err := n.systemctl("restart", unit); err != nil {
		return err
	}
	if err := n.systemctl("is-active", "--quiet", unit); err != nil {
		return fmt.Errorf("%s does not run after its restart (journalctl -u %s): %w", unit, unit, err)
	}
	n.say("restarted %s", unit)
	return nil
}

// systemctl is the host's own.
func (n *Node) systemctl(args ...string) error {
	cmd := exec.Command("/usr/bin/systemctl", args...)
	if n.Root != "" {
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: n.Root}
		// It does nothing, successfully, where it believes to be in a chroot that has nothing to do with the host.
		cmd.Env = append(os.Environ(), "SYSTEMD_IGNORE_CHROOT=1")
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("call the host's systemctl: %w", err)
	}
	if err != nil {
		return fmt.Errorf("systemctl %q: %w: %s", args, err, out)
	}
	return nil
}
