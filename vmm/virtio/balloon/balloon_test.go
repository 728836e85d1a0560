package balloon

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/memory"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

const (
	page = 4096
	base = virtiotest.Base >> pfnShift // the first PFN
)

type guest struct {
	*virtiotest.Driver
	queues [3]*virtiotest.Queue
	tr     *virtiotest.Transport
}

func activate(t testing.TB, dev *Device, features uint64) *guest {
	t.Helper()
	d := virtiotest.NewDriver(t, 1<<20)
	g := &guest{Driver: d}
	for i := range g.queues {
		g.queues[i] = d.NewQueue(32)
	}
	a, tr := d.Activation(features, g.queues[:]...)
	g.tr = tr
	if err := dev.Activate(a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Reset() })
	return g
}

// pages returns n fresh pages full of ones, and the PFN of the first.
func (g *guest) pages(n int) (pfn uint32, b []byte) {
	addr := g.Alloc(n * page)
	b = g.Bytes(addr, n*page)
	for i := range b {
		b[i] = 1
	}
	return uint32(addr >> pfnShift), b
}

func (g *guest) tell(queue int, pfns ...uint32) {
	b := make([]byte, 4*len(pfns))
	for i, pfn := range pfns {
		binary.LittleEndian.PutUint32(b[4*i:], pfn)
	}
	q := g.queues[queue]
	q.Submit(0, virtiotest.Desc{Addr: g.Put(b), Len: uint32(len(b))})
	q.Used()
}

// zeroed says which of b's pages have been given back.
func zeroed(t testing.TB, b []byte) (list []bool) {
	t.Helper()
	for ; len(b) > 0; b = b[page:] {
		sum := 0
		for _, v := range b[:page] {
			sum += int(v)
		}
		if sum != 0 && sum != page {
			t.Fatalf("a page is given back in part: %d of %d bytes are left", sum, page)
		}
		list = append(list, sum == 0)
	}
	return list
}

func TestInflateGivesBackExactlyTheNamedPages(t *testing.T) {
	for name, order := range map[string][]uint32{
		"upwards":   {1, 2, 3, 5},
		"downwards": {5, 3, 2, 1},
		"scattered": {3, 5, 1, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			g := activate(t, New(), featureReporting)
			first, b := g.pages(7)
			for i := range order {
				order[i] += first
			}
			g.tell(inflateQueue, order...)
			for i, gone := range zeroed(t, b) {
				if want := i == 1 || i == 2 || i == 3 || i == 5; gone != want {
					t.Errorf("page %d: given back %v, want %v", i, gone, want)
				}
			}
		})
	}
}

func TestPagesOutsideOfMemoryAreIgnored(t *testing.T) {
	g := activate(t, New(), 0)
	last := uint32(base + len(g.RAM)/page - 1)
	for i := range page {
		g.RAM[len(g.RAM)-page+i] = 1
	}
	g.tell(inflateQueue, math.MaxUint32, 0, base-1, last, last+1, last+2)
	if !zeroed(t, g.RAM[len(g.RAM)-page:])[0] {
		t.Error("the one page that is memory was not given back")
	}
	select {
	case err := <-g.tr.Failed:
		t.Error(err)
	default:
	}
}

func TestARunMaySpanRegions(t *testing.T) {
	a, b := make([]byte, 16*page), make([]byte, 16*page)
	mem, err := memory.NewSpace(memory.Region{Base: 0, Bytes: a}, memory.Region{Base: 16 * page, Bytes: b})
	if err != nil {
		t.Fatal(err)
	}
	for i := range a {
		a[i], b[i] = 1, 1
	}
	f := inflate{mem: mem, run: run{first: 14, end: 18}}
	f.discard()
	for name, c := range map[string]struct {
		b    []byte
		want func(int) bool
	}{"first": {a, func(i int) bool { return i >= 14 }}, "second": {b, func(i int) bool { return i < 2 }}} {
		for i, gone := range zeroed(t, c.b) {
			if gone != c.want(i) {
				t.Errorf("%s region, page %d: given back %v", name, i, gone)
			}
		}
	}
}

func TestARequestOfSeveralBatchesIsHandledWhole(t *testing.T) {
	g := activate(t, New(), 0)
	first, b := g.pages(3)
	pfns := make([]uint32, 3000) // 12 000 bytes
	for i := range pfns {
		pfns[i] = first
	}
	pfns[1024], pfns[2999] = first+1, first+2
	g.tell(inflateQueue, pfns...)
	for i, gone := range zeroed(t, b) {
		if !gone {
			t.Errorf("page %d was not given back", i)
		}
	}
}

func TestDeflateTouchesNothing(t *testing.T) {
	g := activate(t, New(), 0)
	first, b := g.pages(1)
	g.tell(deflateQueue, first)
	if zeroed(t, b)[0] {
		t.Error("the page is gone")
	}
}

func TestReportedRangesAreGivenBack(t *testing.T) {
	g := activate(t, New(), featureReporting)
	first, b := g.pages(8)
	addr := uint64(first) << pfnShift
	g.queues[reportingQueue].Submit(0,
		virtiotest.Desc{Addr: addr + page, Len: 2 * page, Writable: true},
		virtiotest.Desc{Addr: addr + 5*page + 1, Len: 2*page - 1, Writable: true}) // only whole pages
	if _, n := g.queues[reportingQueue].Used(); n != 0 {
		t.Errorf("used length %d, want 0", n)
	}
	for i, gone := range zeroed(t, b) {
		if want := i == 1 || i == 2 || i == 6; gone != want {
			t.Errorf("page %d: given back %v, want %v", i, gone, want)
		}
	}
}

func TestReportedPagesKeepThePoisonTheDriverExpects(t *testing.T) {
	for poison, want := range map[uint32]bool{0: true, 0xaaaaaaaa: false} {
		dev := New()
		dev.WriteConfig(binary.LittleEndian.AppendUint32(nil, poison), poisonOffset)
		g := activate(t, dev, featureReporting|featurePagePoison)
		first, b := g.pages(1)
		g.queues[reportingQueue].Submit(0, virtiotest.Desc{Addr: uint64(first) << pfnShift, Len: page, Writable: true})
		g.queues[reportingQueue].Used()
		if gone := zeroed(t, b)[0]; gone != want {
			t.Errorf("poison %#x: given back %v, want %v", poison, gone, want)
		}
	}
}

// Linux 6.12 counts only the queues whose features were negotiated.
func TestReportingIsTheThirdQueue(t *testing.T) {
	if n := len(New().Queues()); n != 3 || reportingQueue != 2 {
		t.Errorf("%d queues, reporting is %d", n, reportingQueue)
	}
	if n := New().Queues()[reportingQueue]; n < 32 {
		t.Errorf("Linux wants at least 32 entries for reporting, not %d", n)
	}
}

func TestConfigurationSpace(t *testing.T) {
	dev := New()
	dev.SetTarget(0x0102) // before activation: nobody to tell
	g := activate(t, dev, 0)
	dev.SetTarget(0x0102) // no change
	select {
	case <-g.tr.Changed:
		t.Error("told of a change that is none")
	default:
	}
	dev.SetTarget(0x0304)
	<-g.tr.Changed
	dev.WriteConfig([]byte{7, 0, 0, 0}, actualOffset)
	dev.WriteConfig([]byte{9, 9, 9, 9}, 0)       // ours
	dev.WriteConfig([]byte{9, 9, 9, 9}, 1<<32-4) // beyond
	dev.WriteConfig([]byte{9}, actualOffset)     // in part
	var b [20]byte
	dev.ReadConfig(b[:], 0)
	if want := [20]byte{4, 3, 0, 0, 7}; b != want {
		t.Errorf("configuration %v, want %v", b, want)
	}
	if dev.Actual() != 7 {
		t.Errorf("actual %d", dev.Actual())
	}
	_ = dev.Reset()
	dev.ReadConfig(b[:], 0)
	if want := [20]byte{4, 3}; b != want {
		t.Errorf("after reset %v, want %v", b, want)
	}
}

func TestOffences(t *testing.T) {
	for name, c := range map[string]struct {
		queue int
		desc  virtiotest.Desc
	}{
		"no PFN":                {inflateQueue, virtiotest.Desc{Addr: virtiotest.Base, Len: 0}},
		"half a PFN":            {inflateQueue, virtiotest.Desc{Addr: virtiotest.Base, Len: 6}},
		"too many PFNs":         {inflateQueue, virtiotest.Desc{Addr: virtiotest.Base, Len: 4*maxPFNs + 4}},
		"deflate half a PFN":    {deflateQueue, virtiotest.Desc{Addr: virtiotest.Base, Len: 2}},
		"report of readable":    {reportingQueue, virtiotest.Desc{Addr: virtiotest.Base, Len: page}},
		"report outside memory": {reportingQueue, virtiotest.Desc{Addr: 0, Len: page, Writable: true}},
	} {
		t.Run(name, func(t *testing.T) {
			g := activate(t, New(), featureReporting)
			g.queues[c.queue].Submit(0, c.desc)
			select {
			case <-g.tr.Failed:
			case <-time.After(10 * time.Second):
				t.Error("the device did not fail")
			}
		})
	}
}
