package stage

import (
	"errors"
	"fmt"

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
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fmt.Errorf("open terminal: %w", errno)
	}
	slave := int(peer)
	if p.config.Width != 0 && p.config.Height != 0 {
		size := unix.Winsize{Col: p.config.Width, Row: p.config.Height}
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &size); err != nil {
			return fmt.Errorf("size terminal: %w", err)
		}
	}
	if console {
		if err := bindConsole(slave); err != nil {
			return err
		}
	}
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return fmt.Errorf("make the terminal descriptor %d: %w", fd, err)
		}
	}
	if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("make the terminal the controlling one: %w", err)
	}
	p.master = master
	return unix.Close(slave)
}

// openMaster opens a terminal's master of the container's devpts, and nothing that is only named like it.
func openMaster() (int, error) {
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Open("/dev/pts/ptmx", flags, 0)
	if err != nil {
		if fd, err = unix.Open("/dev/ptmx", flags, 0); err != nil {
			return -1, err
		}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2)) {
		err = errors.New("/dev/pts/ptmx is no terminal multiplexer: is a devpts mounted on /dev/pts?")
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bindConsole mounts the terminal itself, not what a path leads to, on /dev/console itself, not on what it links to:
// neither an image nor another container can direct it elsewhere (CVE-2025-52565).
func bindConsole(slave int) error {
	const flags = unix.O_CREAT | unix.O_NOFOLLOW | unix.O_RDONLY | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Open("/dev/console", flags, 0o666)
	if err == nil {
		unix.Close(fd)
	}
	// Whether it was there or is made: if it can't be covered, the mount says so.
	console, err := unix.Open("/dev/console", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/console: %w", err)
	}
	defer unix.Close(console)
	tree, err := unix.OpenTree(slave, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("bind the terminal: %w", err)
	}
	defer unix.Close(tree)
	err = unix.MoveMount(tree, "", console, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("bind the terminal to /dev/console: %w", err)
	}
	return nil
}
