package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/hooks"
	"github.com/huskvm/husk/shim/internal/hostcgroup"
	"github.com/huskvm/husk/shim/internal/hostnet"
	"github.com/huskvm/husk/shim/internal/rundir"
)

// evictTime is what a shim, or a VMM, may take to end after SIGKILL.
const evictTime = 4 * time.Second

// delete takes away what a dead or unreachable shim has left, and answers how the container ended. It needs
// nothing but the names it is called with.
func (s *Shim) delete() error {
	response := &taskv3.DeleteResponse{ExitStatus: 128 + uint32(syscall.SIGKILL), ExitedAt: timestamppb.Now()}
	identity, t, kept := bundle.Identity{Sandbox: s.id}, traces{}, (*keptExit)(nil)
	own, bundleErr := s.bundleDir()
	if bundleErr == nil {
		if spec, err := bundle.Load(own); err == nil {
			identity, t.cgroup = bundle.Identify(s.id, spec.Annotations), spec.Linux.CgroupsPath
			t.netns, _ = bundle.NetworkNamespace(spec)
		}
		kept = exitIn(own)
	}
	dir := s.dir(identity.Sandbox)
	state, _ := dir.Load()
	// For a pod's further container the sandbox stays if it lives. The pod's other containers may be deleted just now, too.
	if identity.Kind != bundle.Member || !dir.Served() && kept == nil {
		cleaned, err := evict(dir, t)
		if err != nil && (identity.Kind != bundle.Member || !errors.Is(err, rundir.ErrLocked)) {
			return err
		}
		if cleaned.ID != "" {
			state = cleaned
		}
	}
	if kept == nil {
		kept = exitOf(state, s.id)
	}
	if kept != nil {
		response.Pid, response.ExitStatus, response.ExitedAt = kept.PID, kept.Status, timestamppb.New(kept.At)
	} else {
		response.Pid = uint32(state.VMM.PID)
	}
	if err := s.writeMessage(response); err != nil {
		return err
	}
	if bundleErr == nil { // it was told
		_ = os.Remove(filepath.Join(own, exitFile))
	}
	return nil
}

// traces are a sandbox's outside of its directory.
type traces struct {
	cgroup string // as in the specification
	netns  string // path of the network namespace
}

// remove leaves the cgroup for the end, for which systemd may have to be waited.
func (t traces) remove(dir rundir.Dir) error {
	return errors.Join(hostnet.Disconnect(t.netns, hostnet.KeyOf(string(dir))), dir.Remove(), hostcgroup.Remove(t.cgroup))
}

// evict ends whoever serves the sandbox, and cleans up.
func evict(dir rundir.Dir, t traces) (rundir.State, error) {
	lock, err := dir.Evict(evictTime)
	if errors.Is(err, fs.ErrNotExist) {
		return rundir.State{}, t.remove(dir)
	}
	if err != nil {
		return rundir.State{}, err
	}
	defer lock.Close()
	return cleanUp(dir, t)
}

// cleanUp removes everything of a sandbox that nobody serves. t is what to remove where the sandbox's state does not
// say. The mounts went with the shim's mount namespace, and the VMM should have, too.
func cleanUp(dir rundir.Dir, t traces) (rundir.State, error) {
	state, err := dir.Load()
	if err == nil {
		if state.Cgroup != "" {
			t.cgroup = state.Cgroup
		}
		if state.NetNS != "" {
			t.netns = state.NetNS
		}
		if err := state.VMM.Kill(evictTime); err != nil {
			return state, fmt.Errorf("end the sandbox's VMM: %w", err)
		}
	}
	keepExits(state)
	err = t.remove(dir)
	for _, c := range state.Containers {
		// A bundle that is gone has been cleaned up after by its engine. What fails here is nobody's to be told.
		if spec, err := bundle.Load(c.Bundle); err == nil {
			_ = hooks.Of(c.ID, c.Bundle, spec).PostStop(context.Background())
		}
	}
	return state, err
}
