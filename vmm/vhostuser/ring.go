package vhostuser

import (
	"github.com/huskvm/husk/vmm/eventfd"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// ring is one queue as the front end sees it.
type ring struct {
	size    uint32
	base    uint16 // index at which it begins when the device starts
	addr    ringAddr
	enabled bool
	kick    *eventfd.EventFD // nil unless started
	stopped bool             // until it is started or enabled again
	call    donated          // eventfds
	err     donated

	queue *queue.Queue // while the device runs
}

// open makes the device's side of the ring. The error is the guest's doing: it chooses addresses and size. How large
// a ring may be is not the device's to say here: over virtio-mmio QEMU lets every queue have 1024 entries.
func (r *ring) open(t *table, features uint64) error {
	if r.size > queue.MaxSize {
		return queue.Offence("queue size %d is more than %d", r.size, queue.MaxSize)
	}
	cfg := queue.Config{
		Size:     uint16(r.size),
		Start:    r.base,
		EventIdx: features&virtio.FeatureEventIdx != 0,
		Indirect: features&virtio.FeatureIndirectDesc != 0,
	}
	for _, a := range []struct {
		name  string
		user  uint64
		guest *uint64
	}{{"descriptor table", r.addr.desc, &cfg.Desc}, {"avail ring", r.addr.avail, &cfg.Driver}, {"used ring", r.addr.used, &cfg.Device}} {
		guest, err := t.guest(a.user)
		if err != nil {
			return queue.Offence("%s: %v", a.name, err)
		}
		*a.guest = guest
	}
	q, err := queue.New(t.space, cfg)
	if err != nil {
		return err
	}
	r.queue = q
	return nil
}

// settle keeps where the queue has come to, after the device's reset.
func (r *ring) settle() {
	if r.queue != nil {
		r.base, r.queue = r.queue.Used(), nil
	}
}

// setKick takes fd over, which starts the ring. Less than 0 is none.
func (r *ring) setKick(fd int) {
	if r.kick != nil {
		_ = r.kick.Close()
	}
	r.kick, r.stopped = nil, false
	if fd >= 0 {
		r.kick = eventfd.FromFD(fd)
	}
}

func (r *ring) close() {
	r.setKick(-1)
	r.call.set(-1)
	r.err.set(-1)
}
