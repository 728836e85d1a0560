package vhostuser

import (
	"log/slog"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// script is a front end's messages for FuzzSession, one after the other: request, flags, what descriptors come with
// it (how many in the high half, which first in the low one), payload size, payload.
type script []byte

func (s *script) add(r request, payload []byte, fds byte) {
	*s = append(*s, byte(r), flagVersion|flagNeedReply, fds, byte(len(payload)))
	*s = append(*s, payload...)
}

// next takes a message from the front. Sizes over 255 are what fuzzing of the header is for (raw).
func (s *script) next() (m []byte, fds byte, ok bool) {
	b := *s
	if len(b) < 4 {
		return nil, 0, false
	}
	n := min(int(b[3]), len(b)-4)
	*s = b[4+n:]
	return header{request: request(b[0]), flags: uint32(b[1])}.encode(b[4 : 4+n]), b[2], true
}

// startScript brings up both rings of a device over one region, with chains in the first.
func startScript(cfg [2]queue.Config) script {
	var s script
	s.add(getFeatures, nil, 0)
	s.add(setProtocolFeatures, encodeU64(protocolReplyAck|protocolConfig|protocolBackendReq), 0)
	s.add(setFeatures, encodeU64(guestFeatures|featureProtocol), 0)
	s.add(setMemTable, encodeTable(region{guest: virtiotest.Base, size: fuzzRAM, user: lowUser}), 0x10)
	for i, c := range cfg {
		i := uint32(i)
		s.add(setVringNum, state(i, uint32(c.Size)), 0)
		s.add(setVringBase, state(i, 0), 0)
		s.add(setVringAddr, addrOf(i, c).encode(), 0)
		s.add(setVringCall, encodeU64(uint64(i)), 0x11)
		s.add(setVringErr, encodeU64(uint64(i)), 0x11)
		s.add(setVringKick, encodeU64(uint64(i)), 0x11)
		s.add(setVringEnable, state(i, 1), 0)
	}
	return s
}

const fuzzRAM = 64 << 10

// FuzzSession is a front end gone mad, with a guest's rings behind it. ops is a script, then raw is sent as it is.
// Whatever comes, nothing panics, the session ends, and nothing of it is left open.
func FuzzSession(f *testing.F) {
	_, rings := fuzzMemory(f)
	up := startScript(rings)
	again := append(script(nil), up...)
	again.add(getVringBase, state(0, 0), 0)
	again.add(setVringBase, state(0, 2), 0)
	again.add(setVringKick, encodeU64(0), 0x11)
	again.add(setMemTable, encodeTable(region{guest: virtiotest.Base, size: fuzzRAM / 2, user: lowUser},
		region{guest: virtiotest.Base + fuzzRAM/2, size: fuzzRAM / 2, user: lowUser + fuzzRAM/2, offset: fuzzRAM / 2}), 0x20)
	again.add(resetDevice, nil, 0)
	odd := append(script(nil), up...)
	odd.add(setVringEnable, state(0, 0), 0)
	odd.add(setBackendReqFD, nil, 0x12)
	odd.add(setConfig, configAccess{offset: 6, data: []byte("abcd")}.encode(), 0)
	odd.add(getConfig, configAccess{offset: 1, data: make([]byte, 9)}.encode(), 0)
	odd.add(setVringKick, encodeU64(vringNoFD), 0)
	odd.add(setVringKick, encodeU64(1), 0x13) // /dev/null
	odd.add(getQueueNum, nil, 0)
	f.Add([]byte(up), []byte{})
	f.Add([]byte(again), header{request: setOwner, flags: 2}.encode(nil))
	f.Add([]byte(odd), []byte{1, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, ops, raw []byte) {
		ram, _ := fuzzMemory(t)
		event, socket, null := fuzzFiles(t)
		before := openFiles(t)
		back, front := connPair(t)
		b, err := New(Config{Device: &echo{}, Log: slog.New(slog.DiscardHandler), Queues: 2})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = b.Serve(back)
			close(ended)
		}()
		send := func(m []byte, fds []int) bool {
			_, _, err := front.WriteMsgUnix(m, unix.UnixRights(fds...), nil)
			return err == nil
		}
		s := script(ops)
		for range 64 { // whose replies fit into the socket
			m, which, ok := s.next()
			if !ok {
				break
			}
			var fds []int
			for i := range which >> 4 % 12 {
				fds = append(fds, []int{ram, event, socket, null}[(which+i)%4])
			}
			if !send(m, fds) {
				break
			}
		}
		if len(raw) > 0 {
			send(raw, nil)
		}
		_ = front.CloseWrite()
		<-ended
		_ = front.Close()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if now := openFiles(t); now != before {
			t.Fatalf("%d descriptors, %d before", now, before)
		}
	})
}

// fuzzMemory is guest memory with two rings, and some chains in the first.
func fuzzMemory(t testing.TB) (fd int, rings [2]queue.Config) {
	b, file := sharedMemory(t, fuzzRAM)
	d := virtiotest.NewDriverIn(t, b)
	for i := range rings {
		q := d.NewQueue(16)
		rings[i] = q.Config
		if i == 0 {
			q.Submit(0, virtiotest.Desc{Addr: d.Put([]byte("fuzz")), Len: 4}, virtiotest.Desc{Addr: d.Alloc(8), Len: 8, Writable: true})
			q.Submit(2, virtiotest.Desc{Addr: d.Alloc(8), Len: 1 << 20})
		}
	}
	return int(file.Fd()), rings
}

func fuzzFiles(t testing.TB) (event, socket, null int) {
	a, _ := connPair(t)
	for _, open := range []func() (*os.File, error){a.File, func() (*os.File, error) { return os.OpenFile(os.DevNull, os.O_RDWR, 0) }} {
		f, err := open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		socket, null = null, int(f.Fd())
	}
	return newEventFD(t).FD(), socket, null
}

func openFiles(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
