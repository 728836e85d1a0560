package virtiofs

import (
	"io"
	"log"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/queue"
	"github.com/huskvm/husk/vmm/virtio/virtiofs/passthrough"
)

// quiet is where the protocol's server complains of requests: a guest can make it as often as it likes.
var quiet = log.New(io.Discard, "", 0)

// newServer returns the protocol's server in its state before FUSE_INIT.
func newServer(files *passthrough.FS) *fuse.ProtocolServer {
	return fuse.NewProtocolServer(files, &fuse.MountOptions{
		MaxWrite:             maxWrite,
		EnableSymlinkCaching: true,
		Logger:               quiet,
		// What is wrong in one request must not take the VMM with it.
		PanicHandler: func(any) fuse.Status { return fuse.EIO },
	})
}

// serve takes requests off a queue and works on several at a time: a slow fsync holds up nobody else.
func (d *Device) serve(q *virtio.Virtqueue, t virtio.Transport) {
	if q == nil {
		return
	}
	server := d.server
	d.workers.Go(q, t, func() error {
		for {
			c, err := q.Next()
			if err != nil {
				return err
			}
			d.slots <- struct{}{}
			d.pending.Add(1)
			go func() {
				defer d.pending.Done()
				handle(server, c)
				q.Return(c)
				<-d.slots
			}()
		}
	})
}

var (
	requests = sync.Pool{New: func() any { return new(request) }}
	// Answers other than a read's are small, but for directories.
	answers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}
)

// request is where one is copied to.
type request struct {
	head [headSize]byte
	body []byte
	in   [][]byte
}

// handle answers one request. One that is too short to be answered is returned as it is: nothing written.
func handle(server *fuse.ProtocolServer, c *queue.Chain) {
	r := requests.Get().(*request)
	defer requests.Put(r)
	in, op, ok := r.read(c)
	if !ok {
		return
	}
	if op == opRead {
		// The data goes straight from the file to the guest. Nothing written there is read back.
		n, _ := server.HandleRequest(in, c.Writable())
		c.Filled(uint64(n))
		return
	}
	answer := answers.Get().(*[]byte)
	defer answers.Put(answer)
	out := *answer
	if want := c.WritableLen(); want < uint64(len(out)) {
		out = out[:want]
	} else if want > uint64(len(out)) {
		out = make([]byte, min(want, maxWrite+maxMessage))
	}
	n, _ := server.HandleRequest([][]byte(in), [][]byte{out})
	_, _ = c.Write(out[:n])
}

// read copies the request out of the guest's memory, but for the data of a write, which nobody looks at.
func (r *request) read(c *queue.Chain) (in [][]byte, op uint32, ok bool) {
	size := c.ReadableLen()
	if size < headerSize {
		return nil, 0, false
	}
	n, _ := io.ReadFull(c, r.head[:min(size, headSize)])
	head := r.head[:n]
	op = opcode(head)
	if op == opWrite && size >= headSize {
		r.in = append(append(r.in[:0], head), c.Readable()...)
		return r.in, op, true
	}
	rest := c.ReadableLen()
	if rest > maxMessage {
		return nil, 0, false
	}
	r.body = append(r.body[:0], head...)
	r.body = append(r.body, make([]byte, rest)...)
	_, _ = io.ReadFull(c, r.body[n:])
	r.in = append(r.in[:0], r.body)
	return r.in, op, true
}
