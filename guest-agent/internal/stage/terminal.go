package stage

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// openTerminal gives the process a pseudo terminal of the container's own devpts as its controlling terminal and
// standard descriptors, and puts the master aside for the agent. In a container's init, /dev/console is it too.
func (p *program) openTerminal(console bool) error {
	if !p.config.Terminal {
		return nil
	}
	master, err := openMaster()
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock terminal: %w", err)
	}
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fmt.Errorf("open terminal: %w", errno)
	}
	if p.config.Width != 0 && p.config.Height != 0 {
		size := unix.Winsize{Col: p.config.Width, Row: p.config.Height}
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &size); err != nil {
			return fmt.Errorf("size terminal: %w", err)
		}
	}
	if console {
		if err := bindConsole(master); err != nil {
			return err
		}
	}
	for fd := range 3 {
		if err := unix.Dup3(int(slave), fd, 0); err != nil {
			return fmt.Errorf("make the terminal descriptor %d: %w", fd, err)
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("make the terminal the controlling one: %w", err)
	}
	p.master = master
	return unix.Close(int(slave))
}

func openMaster() (int, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Open("/dev/pts/ptmx", flags, 0)
	if err != nil {
		fd, err = unix.Open("/dev/ptmx", flags, 0)
	}
	return fd, err
}

// slaveName is where devpts shows the other side. The kernel writes 32 bits, whatever Go's int has.
func slaveName(master int) (string, error) {
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		return "", fmt.Errorf("number of the terminal: %w", err)
	}
	return "/dev/pts/" + strconv.FormatUint(uint64(n), 10), nil
}

func bindConsole(master int) error {
	slave, err := slaveName(master)
	if err != nil {
		return err
	}
	fd, err := unix.Open("/dev/console", unix.O_CREAT|unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666)
	if err == nil {
		unix.Close(fd)
	}
	// Whether it was there or is made: if it can't be covered, the mount says so.
	if err := unix.Mount(slave, "/dev/console", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the terminal to /dev/console: %w", err)
	}
	return nil
}
