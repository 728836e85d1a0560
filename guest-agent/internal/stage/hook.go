package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Hooks that the runtime-spec puts in the container's namespaces run here: createContainer before the pivot, where
// its path is the guest's, and startContainer as the process itself, just before its program. The others belong to
// the host.

// maxHookOutput is how much of a failed hook's stderr is told.
const maxHookOutput = 4 << 10

func (p *program) createHooks() error {
	if h := p.config.Spec.Hooks; h != nil {
		defer unix.Umask(unix.Umask(defaultUmask))
		return p.runHooks("createContainer", h.CreateContainer, specs.StateCreating)
	}
	return nil
}

func (p *program) startHooks() error {
	if s := p.config.Spec; s != nil && s.Hooks != nil {
		return p.runHooks("startContainer", s.Hooks.StartContainer, specs.StateCreated)
	}
	return nil
}

func (p *program) runHooks(kind string, hooks []specs.Hook, status specs.ContainerState) error {
	if len(hooks) == 0 {
		return nil
	}
	spec := p.config.Spec
	state, err := json.Marshal(specs.State{
		Version: spec.Version, ID: p.config.ID, Status: status, Pid: os.Getpid(),
		// The bundle is the host's; what the guest has of it is the root's directory.
		Bundle: filepath.Dir(spec.Root.Path), Annotations: spec.Annotations,
	})
	if err != nil {
		return fmt.Errorf("encode the state for %s hooks: %w", kind, err)
	}
	for _, h := range hooks {
		err := runHook(h, state)
		if errors.Is(err, unix.ENOENT) && status == specs.StateCreating {
			return fmt.Errorf("%s hook %s: %w in the guest, where it would run", kind, h.Path, err)
		}
		if err != nil {
			return fmt.Errorf("%s hook %s: %w", kind, h.Path, err)
		}
	}
	return nil
}

// runHook runs one hook in the namespaces and with the credentials of the calling thread.
func runHook(h specs.Hook, state []byte) error {
	stdin, err := memoryFile(state)
	if err != nil {
		return err
	}
	defer stdin.Close()
	output, err := memoryFile(nil)
	if err != nil {
		return err
	}
	defer output.Close()
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	pidfd := -1
	pid, err := syscall.ForkExec(h.Path, args, &syscall.ProcAttr{
		Env:   h.Env,
		Files: []uintptr{stdin.Fd(), output.Fd(), output.Fd()},
		Sys:   &syscall.SysProcAttr{PidFD: &pidfd},
	})
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	if err := awaitHook(pidfd, h.Timeout); err != nil {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		_, _ = wait(pid)
		return err
	}
	status, err := wait(pid)
	if err != nil || status.Exited() && status.ExitStatus() == 0 {
		return err
	}
	text := make([]byte, maxHookOutput)
	n, _ := output.ReadAt(text, 0) // whatever there is
	said := strings.TrimSpace(string(text[:n]))
	if status.Signaled() {
		return fmt.Errorf("killed by signal %d: %s", status.Signal(), said)
	}
	return fmt.Errorf("exit status %d: %s", status.ExitStatus(), said)
}

// awaitHook waits for a hook's end, for the given seconds if there are any.
func awaitHook(pidfd int, seconds *int) error {
	var deadline time.Time
	if seconds != nil {
		deadline = time.Now().Add(time.Duration(*seconds) * time.Second)
	}
	for {
		wait := -1
		if seconds != nil {
			wait = max(0, int(time.Until(deadline).Milliseconds())+1)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, wait)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case n > 0:
			return nil
		default:
			return fmt.Errorf("not done after its timeout of %d s", *seconds)
		}
	}
}

// wait reaps one child. In a new pid namespace this process is also the parent of what hooks leave behind, which
// the program will find, as with other runtimes.
func wait(pid int) (unix.WaitStatus, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, err
		}
	}
}

// memoryFile is a file that is nowhere, with text in it.
func memoryFile(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("hook", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "hook")
	if _, err = f.Write(text); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write memory file: %w", err)
	}
	return f, nil
}
