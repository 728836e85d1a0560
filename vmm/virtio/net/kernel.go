package net

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/eventfd"
	"github.com/huskvm/husk/vmm/vhost"
	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
)

// kernelFeatures are those that vhost-net itself has to do with. The others are the tap's.
const kernelFeatures = featureMrgRxbuf | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx | virtio.FeatureVersion1

// kernel serves the pairs by vhost-net, in place of the workers.
//
//	serve ──▶ use ◀── pause/resume ── reset ──▶ serve …
//
// It serves the pairs that are in use while it is not paused.
type kernel struct {
	owned    bool
	offences *eventfd.EventFD // signalled by the kernel for any of its rings; nil when it has none
	watching sync.WaitGroup

	mu     sync.Mutex // of all below
	pairs  []*kernelPair
	inUse  int
	paused bool
}

type kernelPair struct {
	net     *vhost.Net
	tap     int // descriptor
	kicks   [2]int
	lent    bool // the rings
	serving bool
}

// newKernel takes the descriptors over, one a pair.
func newKernel(nets []*vhost.Net, links []*link) *kernel {
	k := &kernel{}
	for i, n := range nets {
		k.pairs = append(k.pairs, &kernelPair{net: n, tap: links[i].fd})
	}
	return k
}

// serve lends the first pairs to the kernel. A queue that the driver has left disabled can't be.
func (k *kernel) serve(a *virtio.Activation, pairs int) (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.offences, err = eventfd.New(); err != nil {
		return err
	}
	for _, p := range k.pairs {
		if k.owned {
			break
		}
		if err := p.net.Own(); err != nil {
			return err
		}
	}
	k.owned = true
	for i, p := range k.pairs[:pairs] {
		if err := p.lend(a, i, k.offences.FD()); err != nil {
			return fmt.Errorf("pair %d: %w", i, err)
		}
	}
	offences := k.offences
	k.watching.Go(func() {
		if offences.Wait() == nil {
			a.Transport.Fail(queue.Offence("the host's kernel finds a descriptor or a packet that can't be"))
		}
	})
	return nil
}

func (p *kernelPair) lend(a *virtio.Activation, pair, offences int) error {
	if err := p.net.SetUp(a.Features, kernelFeatures, a.Memory); err != nil {
		return err
	}
	p.lent = true
	for ring, vq := range map[uint32]*virtio.Virtqueue{
		vhost.Receive: a.Queues[receiveQueue(pair)], vhost.Transmit: a.Queues[transmitQueue(pair)],
	} {
		if vq == nil {
			return errors.New("a queue is disabled")
		}
		c, fds, ok := vq.Lend()
		if !ok {
			return errors.New("the transport has no eventfds")
		}
		p.kicks[ring] = fds.Kick
		if err := p.net.SetRing(ring, vhost.Ring{
			Size: c.Size, Desc: c.Desc, Driver: c.Driver, Device: c.Device, Start: c.Start,
			Kick: fds.Kick, Call: fds.Call, Err: offences,
		}, a.Memory); err != nil {
			return err
		}
	}
	return nil
}

// use serves the first pairs, and no others.
func (k *kernel) use(pairs int) error { return k.change(func() { k.inUse = pairs }) }

// pause returns once the kernel touches nothing of the guest's.
func (k *kernel) pause() error { return k.change(func() { k.paused = true }) }

func (k *kernel) resume() error { return k.change(func() { k.paused = false }) }

func (k *kernel) change(what func()) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	what()
	var errs []error
	for i, p := range k.pairs {
		if err := p.serve(p.lent && i < k.inUse && !k.paused); err != nil {
			errs = append(errs, fmt.Errorf("pair %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

func (p *kernelPair) serve(on bool) error {
	switch {
	case on == p.serving:
		return nil
	case !on:
		p.serving = false
		return p.net.ClearTap()
	}
	if err := p.net.SetTap(p.tap); err != nil {
		return errors.Join(err, p.net.ClearTap())
	}
	p.serving = true
	// A kick that came while nobody served is forgotten.
	for _, kick := range p.kicks {
		if _, err := unix.Write(kick, binary.NativeEndian.AppendUint64(nil, 1)); err != nil && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("kick: %w", err)
		}
	}
	return nil
}

// reset takes the rings back.
func (k *kernel) reset() error {
	err := k.use(0)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.offences != nil {
		_ = k.offences.Close()
		k.offences = nil
	}
	k.watching.Wait()
	for _, p := range k.pairs {
		if p.lent {
			err = errors.Join(err, p.net.Release())
			p.lent = false
		}
	}
	return err
}

func (k *kernel) close() error {
	var errs []error
	for _, p := range k.pairs {
		errs = append(errs, p.net.Close())
	}
	return errors.Join(errs...)
}
