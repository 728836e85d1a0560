package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/log"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/vmm/marks"
)

// Timeline is one start of a sandbox, from the shim's own to the container's.
type Timeline struct {
	ID    string  `json:"id"`
	Marks []Event `json:"marks"`
}

// Event is a mark in a timeline. All clocks are aligned to the host's; the guest's by the moment at which its
// agent answered.
type Event struct {
	Milliseconds float64 `json:"ms"` // since the first
	Source       string  `json:"source"`
	Name         string  `json:"name"`
}

// recordMarks takes over the VMM's marks, and the agent's, of which the last is the answer that brought them.
func (s *Sandbox) recordMarks(ctx context.Context, v *vm, agent []*agentv1.Mark) {
	now := marks.Now()
	info, err := v.machine.API().Info(ctx, &vmmv1.InfoRequest{})
	if err != nil {
		log.G(ctx).WithError(err).Debug("ask the VMM for its marks")
	}
	var last uint64
	for _, m := range agent {
		last = max(last, m.Nanoseconds)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vmmMarks, s.guestMarks = info.GetMarks(), nil
	for _, m := range agent {
		s.guestMarks = append(s.guestMarks, marks.Mark{Name: m.Name, Nanoseconds: now - (last - m.Nanoseconds)})
	}
}

// keepTimeline writes the timeline once the first container has started.
func (s *Sandbox) keepTimeline() {
	s.mu.Lock()
	keep, vmm, guest := s.config.Timeline, s.vmmMarks, s.guestMarks
	done := s.timelined
	s.timelined = true
	s.mu.Unlock()
	if done {
		return
	}
	s.marks.Add("container started")
	own := s.marks.All()
	if s.Begun > 0 {
		own = append([]marks.Mark{{Name: "shim started", Nanoseconds: s.Begun}}, own...)
	}
	t := timeline(s.ID, own, vmm, guest)
	if err := s.writeTimeline(t, keep); err != nil {
		log.L.WithError(err).Warn("keep the boot timeline")
	}
	for _, e := range t.Marks {
		log.L.WithField("id", s.ID).WithField("ms", e.Milliseconds).WithField("source", e.Source).Debug(e.Name)
	}
}

func timeline(id string, shim []marks.Mark, vmm []*vmmv1.Mark, guest []marks.Mark) Timeline {
	type mark struct {
		at           uint64
		source, name string
	}
	var all []mark
	for _, m := range shim {
		all = append(all, mark{m.Nanoseconds, "shim", m.Name})
	}
	for _, m := range vmm {
		all = append(all, mark{m.Nanoseconds, "vmm", m.Name})
	}
	for _, m := range guest {
		all = append(all, mark{m.Nanoseconds, "guest", m.Name})
	}
	slices.SortStableFunc(all, func(a, b mark) int { return cmp.Compare(a.at, b.at) })
	t := Timeline{ID: id}
	for _, m := range all {
		t.Marks = append(t.Marks, Event{float64((m.at-all[0].at)/1000) / 1000, m.source, m.name})
	}
	return t
}

func (s *Sandbox) writeTimeline(t Timeline, keep string) error {
	data, err := json.MarshalIndent(t, "", "\t")
	if err != nil {
		return fmt.Errorf("encode timeline: %w", err)
	}
	if keep != "" {
		if err := os.MkdirAll(keep, 0o755); err != nil {
			return fmt.Errorf("create timeline directory: %w", err)
		}
		if err := os.WriteFile(filepath.Join(keep, t.ID+".json"), data, 0o644); err != nil {
			return fmt.Errorf("write timeline: %w", err)
		}
	}
	return s.Dir.Replace(rundir.Timeline, data)
}
