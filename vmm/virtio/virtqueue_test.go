package virtio_test

import (
	"errors"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: not within ten seconds", what)
	}
}

// run calls f in a goroutine, and returns what is closed when it is done.
func run(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

func TestNextWaitsForTheDriver(t *testing.T) {
	for _, eventIdx := range []bool{true, false} {
		d := virtiotest.NewDriver(t, 1<<20)
		q := d.NewQueue(4)
		q.Config.EventIdx = eventIdx
		vq := q.Device()
		const chains = 2000
		done := run(func() {
			for range chains {
				c, err := vq.Next()
				if err != nil {
					t.Error(err)
					return
				}
				vq.Return(c)
			}
		})
		for range chains { // neither a kick nor an interrupt may be lost
			q.Submit(0, virtiotest.Desc{Addr: virtiotest.Base, Len: 1})
			q.Used()
		}
		within(t, "the device", done)
	}
}

func TestTryNextNeverWaits(t *testing.T) {
	d := virtiotest.NewDriver(t, 1<<20)
	q := d.NewQueue(4)
	vq := q.Device()
	if c, err := vq.TryNext(); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
	q.Submit(0, virtiotest.Desc{Addr: virtiotest.Base, Len: 1})
	if c, err := vq.TryNext(); c == nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
}

func TestStopWakesTheWaiter(t *testing.T) {
	d := virtiotest.NewDriver(t, 1<<20)
	vq := d.NewQueue(4).Device()
	done := run(func() {
		if c, err := vq.Next(); c != nil || err == nil {
			t.Errorf("%v, %v", c, err)
		}
	})
	vq.Stop()
	within(t, "Next", done)
}

func TestStopEndsAQueueThatNeverRunsDry(t *testing.T) {
	d := virtiotest.NewDriver(t, 1<<20)
	q := d.NewQueue(4)
	vq := q.Device()
	for i := range uint16(3) {
		q.Submit(i, virtiotest.Desc{Addr: virtiotest.Base, Len: 1})
	}
	c, err := vq.Next()
	if err != nil {
		t.Fatal(err)
	}
	vq.Stop()
	for range 2 {
		if c, err := vq.Next(); c != nil || err == nil {
			t.Errorf("after Stop: %v, %v", c, err)
		}
	}
	vq.Return(c) // was taken before
	if head, _ := q.Used(); head != 0 {
		t.Errorf("head %d", head)
	}
}

func TestWorkersServeEveryChain(t *testing.T) {
	d := virtiotest.NewDriver(t, 1<<20)
	q := d.NewQueue(8)
	a, _ := d.Activation(0, q)
	var w virtio.Workers
	w.Serve(a.Queues[0], a.Transport, func(c *queue.Chain) error {
		_, err := c.Write([]byte("served"))
		return err
	})
	w.Serve(nil, a.Transport, nil) // a queue left disabled
	buf := d.Alloc(6)
	for range 100 {
		q.Submit(0, virtiotest.Desc{Addr: buf, Len: 6, Writable: true})
		if _, n := q.Used(); n != 6 || string(d.Bytes(buf, 6)) != "served" {
			t.Fatalf("%q", d.Bytes(buf, 6))
		}
	}
	within(t, "Stop", run(w.Stop))
	within(t, "Stop again", run(w.Stop))
}

func TestWorkersStartAgainAfterStop(t *testing.T) {
	d := virtiotest.NewDriver(t, 1<<20)
	var w virtio.Workers
	q := d.NewQueue(8)
	for range 3 { // the same doorbell each time, as a transport has it
		q.Reset()
		served := 0
		a, _ := d.Activation(0, q)
		w.Serve(a.Queues[0], a.Transport, func(*queue.Chain) error { served++; return nil })
		q.Submit(0, virtiotest.Desc{Addr: virtiotest.Base, Len: 1})
		q.Used()
		w.Stop()
		if served != 1 {
			t.Errorf("served %d", served)
		}
	}
}

func TestAnOffenceIsToldToTheTransport(t *testing.T) {
	offence := queue.Offence("of the handler's")
	for name, c := range map[string]struct {
		addr    uint64
		handler error
		told    bool
	}{
		"of the queue":                {0, nil, true},
		"of the handler":              {virtiotest.Base, offence, true},
		"wrapped":                     {virtiotest.Base, errors.Join(errors.New("request"), offence), true},
		"an error that is no offence": {virtiotest.Base, errors.New("host"), false},
	} {
		t.Run(name, func(t *testing.T) {
			d := virtiotest.NewDriver(t, 1<<20)
			q := d.NewQueue(8)
			a, tr := d.Activation(0, q)
			var w virtio.Workers
			w.Serve(a.Queues[0], a.Transport, func(*queue.Chain) error { return c.handler })
			q.Submit(0, virtiotest.Desc{Addr: c.addr, Len: 1})
			if c.told {
				var guest *virtio.GuestError
				if err := <-tr.Failed; !errors.As(err, &guest) {
					t.Errorf("told of %v", err)
				}
			} else {
				q.Used()
			}
			w.Stop()
			if n := len(tr.Failed); n != 0 {
				t.Errorf("told %d times too often", n)
			}
		})
	}
}

func TestStoppingIsNoFailure(t *testing.T) {
	d := virtiotest.NewDriver(t, 1<<20)
	a, tr := d.Activation(0, d.NewQueue(8), d.NewQueue(8))
	var w virtio.Workers
	for _, vq := range a.Queues {
		w.Serve(vq, a.Transport, func(*queue.Chain) error { return nil })
	}
	w.Stop()
	if len(tr.Failed) != 0 {
		t.Error(<-tr.Failed)
	}
}

func TestConfigurationBytes(t *testing.T) {
	space := []byte{1, 2, 3, 4}
	for off, want := range map[uint32][4]byte{
		0: {1, 2, 3, 4}, 2: {3, 4, 0, 0}, 4: {}, 1<<32 - 1: {},
	} {
		got := [4]byte{9, 9, 9, 9}
		virtio.ReadConfigBytes(space, got[:], off)
		if got != want {
			t.Errorf("at %d: %v, want %v", off, got, want)
		}
	}
}
