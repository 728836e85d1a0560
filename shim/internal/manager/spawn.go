package manager

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/huskvm/husk/shim/internal/rundir"
)

// The descriptors that start hands over to the daemon.
const (
	socketFD = 3
	lockFD   = 4
	readyFD  = 5 // what the daemon has to say: nothing but a line's end when it serves, or why it can't
	engineFD = 6 // the mount namespace of who has called for the shim
)

// spawn starts the daemon, which inherits the socket and the lock, in a mount namespace of its own, and returns when it
// serves. A daemon that ends before is an error here: no engine would call delete for it.
func (s *Shim) spawn(socket, lock *os.File, begun uint64) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the shim's binary: %w", err)
	}
	args := []string{"-namespace", s.namespace, "-id", s.id, "-address", s.address}
	if s.debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, append(args, serveAction)...)
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+s.events, startMark+"="+strconv.FormatUint(begun, 10))
	ready, answer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe to the shim's daemon: %w", err)
	}
	defer ready.Close()
	engine, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return fmt.Errorf("open the engine's mount namespace: %w", err)
	}
	defer engine.Close()
	cmd.ExtraFiles = []*os.File{socket, lock, answer, engine} // from socketFD on
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS}
	err = cmd.Start()
	answer.Close()
	if err != nil {
		return fmt.Errorf("start the shim's daemon: %w", err)
	}
	daemon, err := rundir.Identify(cmd.Process.Pid)
	if err == nil {
		err = rundir.SetHolder(lock, daemon)
	}
	if err == nil {
		err = raiseOOMScore(cmd.Process.Pid)
	}
	if err == nil {
		err = awaitReady(ready)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	return err
}

func awaitReady(daemon io.Reader) error {
	said, err := io.ReadAll(io.LimitReader(daemon, 64<<10))
	switch text := string(said); {
	case err != nil:
		return fmt.Errorf("wait for the shim's daemon: %w", err)
	case text == "\n":
		return nil
	case text == "":
		return errors.New("the shim's daemon was killed before it served")
	default:
		return errors.New(text)
	}
}

// sayReady is the daemon's part of awaitReady: err is why it can't serve, or nil.
func sayReady(err error) {
	answer := os.NewFile(readyFD, "ready")
	text := "\n"
	if err != nil {
		text = err.Error()
	}
	_, _ = io.WriteString(answer, text) // a start that was killed does not listen
	answer.Close()
}

// raiseOOMScore makes the daemon a likelier victim than the engine, by one.
func raiseOOMScore(pid int) error {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return fmt.Errorf("read OOM score: %w", err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("read OOM score: %w", err)
	}
	path := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	if err := os.WriteFile(path, fmt.Append(nil, min(score+1, 1000)), 0); err != nil {
		return fmt.Errorf("set the shim's OOM score: %w", err)
	}
	return nil
}
