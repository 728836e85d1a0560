// Package hooks runs the hooks of a container that belong to the host: prestart, createRuntime, poststart and poststop
// (OCI runtime-spec config.md, POSIX-platform Hooks). Those of the container's namespaces run in the guest.
//
// A hook is the engine's program, trusted as much as the engine: it runs with the shim's rights, in the shim's
// namespaces, in the bundle's directory.
package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxOutput is how much of a failed hook's output is told.
const maxOutput = 4 << 10

// closeTime is how long a hook's output may stay open when the hook has ended: a daemon it has started may keep it.
const closeTime = time.Second

// Set is a container's hooks, with what they are told.
type Set struct {
	// Container is the state that every hook is told, but for the status and the pid.
	Container specs.State
	Hooks     *specs.Hooks // may be nil
}

// Of is the set of the container that spec describes.
func Of(id, bundle string, spec *specs.Spec) Set {
	return Set{
		Container: specs.State{Version: spec.Version, ID: id, Bundle: bundle, Annotations: spec.Annotations},
		Hooks:     spec.Hooks,
	}
}

// Create runs the prestart and the createRuntime hooks, in this order, up to the first that fails. pid stands for the
// container on the host.
func (s Set) Create(ctx context.Context, pid int) error {
	if s.Hooks == nil {
		return nil
	}
	//lint:ignore SA1019 deprecated, and docker's own
	if err := s.run(ctx, "prestart", s.Hooks.Prestart, specs.StateCreating, pid); err != nil {
		return err
	}
	return s.run(ctx, "createRuntime", s.Hooks.CreateRuntime, specs.StateCreating, pid)
}

// PostStart runs the poststart hooks, up to the first that fails.
func (s Set) PostStart(ctx context.Context, pid int) error {
	if s.Hooks == nil {
		return nil
	}
	return s.run(ctx, "poststart", s.Hooks.Poststart, specs.StateRunning, pid)
}

// PostStop runs all poststop hooks, whichever of them fail.
func (s Set) PostStop(ctx context.Context) error {
	if s.Hooks == nil {
		return nil
	}
	var errs []error
	for _, h := range s.Hooks.Poststop {
		errs = append(errs, s.run(ctx, "poststop", []specs.Hook{h}, specs.StateStopped, 0))
	}
	return errors.Join(errs...)
}

func (s Set) run(ctx context.Context, kind string, hooks []specs.Hook, status specs.ContainerState, pid int) error {
	if len(hooks) == 0 {
		return nil
	}
	s.Container.Status, s.Container.Pid = status, pid
	state, err := json.Marshal(s.Container)
	if err != nil {
		return fmt.Errorf("encode the state for %s hooks: %w", kind, err)
	}
	for _, h := range hooks {
		if err := run(ctx, h, s.Container.Bundle, state); err != nil {
			return fmt.Errorf("%s hook %s: %w", kind, h.Path, err)
		}
	}
	return nil
}

var errTimeout = errors.New("not done after its timeout")

// run runs one hook to its end. What is over time is killed, with all that it has started in its process group.
func run(ctx context.Context, h specs.Hook, dir string, state []byte) error {
	if h.Timeout != nil {
		if *h.Timeout <= 0 {
			return fmt.Errorf("its timeout of %d s is not greater than 0", *h.Timeout)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second, errTimeout)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	output := new(tail)
	cmd.Env, cmd.Dir = h.Env, dir // without an environment of its own, a hook has the shim's, as with runc
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = closeTime
	err := cmd.Run()
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
		if errors.Is(err, errTimeout) {
			err = fmt.Errorf("%w of %d s", err, *h.Timeout)
		}
	}
	if said := strings.TrimSpace(string(output.bytes)); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// tail keeps the last of what is written to it.
type tail struct{ bytes []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.bytes = append(t.bytes, p...)
	if extra := len(t.bytes) - maxOutput; extra > 0 {
		t.bytes = append(t.bytes[:0], t.bytes[extra:]...)
	}
	return len(p), nil
}
