package container

import (
	"fmt"
	"os"

	"github.com/huskvm/husk/guest-agent/internal/process"
	"github.com/huskvm/husk/guest-agent/internal/rootfs"
	"github.com/huskvm/husk/guest-agent/internal/stage"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// sources are mounts that the agent opens for a stage whose root is not the guest's, or with ids that only the guest's
// root can map.
type sources struct {
	files []*os.File // in the order of the stage's descriptors
	trees map[int]int
	root  int
}

func (s *sources) close() {
	for _, f := range s.files {
		f.Close()
	}
}

// add takes an open tree and answers its number in the stage.
func (s *sources) add(tree int, name string) int {
	s.files = append(s.files, os.NewFile(uintptr(tree), name))
	return stage.FirstFD + len(s.files) - 1
}

// openSources opens what the stage can't. In a user namespace that is the root and the source of every bind: the
// directories that lead there may be closed to the container's root.
func openSources(r *process.Runner, spec *specs.Spec, user *process.UserNamespace) (_ *sources, err error) {
	s := &sources{trees: map[int]int{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if user != nil {
		tree, err := rootfs.OpenTree(spec.Root.Path, true)
		if err != nil {
			return nil, fmt.Errorf("root.path: %w", err)
		}
		s.root = s.add(tree, spec.Root.Path)
	}
	for i, m := range spec.Mounts {
		mapped, err := rootfs.IDMap(m)
		if err != nil {
			return nil, err
		}
		if !mapped && (user == nil || !rootfs.IsBind(m)) {
			continue
		}
		tree, err := openSource(r, m, mapped, user)
		if err != nil {
			return nil, err
		}
		s.trees[i] = s.add(tree, m.Source)
	}
	return s, nil
}

func openSource(r *process.Runner, m specs.Mount, mapped bool, user *process.UserNamespace) (int, error) {
	if !mapped {
		return rootfs.OpenSource(m, -1)
	}
	ids := &process.UserNamespace{UIDs: m.UIDMappings, GIDs: m.GIDMappings}
	if len(ids.UIDs) == 0 {
		if user == nil {
			return -1, fmt.Errorf("mount %s: to map ids it needs mappings, or the container a user namespace", m.Destination)
		}
		ids.UIDs, ids.GIDs = user.UIDs, user.GIDs
	}
	ns, err := r.NewUserNamespace(ids)
	if err != nil {
		return -1, fmt.Errorf("mount %s: map ids: %w", m.Destination, err)
	}
	defer ns.Close()
	return rootfs.OpenSource(m, int(ns.Fd()))
}
