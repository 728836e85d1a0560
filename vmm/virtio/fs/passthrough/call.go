package passthrough

import (
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

// Request is one request and the room for its reply, consumed from the front. A queue.Chain is one.
type Request interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// Readable and Writable are what is left, as the client's memory; Filled says how much of Writable was used.
	Readable() [][]byte
	Writable() [][]byte
	ReadableLen() uint64
	WritableLen() uint64
	Filled(n uint64)
}

const (
	// maxArgs bounds what of a request is copied. Only a batch of forgets is ever more than 70 KiB.
	maxArgs = 1<<20 + 4096
	// maxKept is the largest buffer that a call keeps for the next request.
	maxKept = 128 << 10
)

// call is one request in progress. It is used again, with its buffers.
type call struct {
	srv  *Server
	sess *session
	req  Request
	hdr  fuse.InHeader
	node *node // the header's

	raw   [fuse.InHeaderSize]byte
	in    []byte
	args  fuse.Decoder // all after the header; of WRITE not the data
	reply fuse.Encoder // all after the header
	room  int          // for the reply, after the header

	iov     [][]byte
	head    [][]byte // where a reply's header goes that is written after the data
	dents   []byte
	replied bool
}

// Handle does what a request asks for and writes the reply. A request that can't be understood gets an error if
// there is room for one, and never anything else.
func (s *Server) Handle(r Request) {
	c := s.calls.Get().(*call)
	c.begin(r)
	c.serve()
	c.end()
	s.calls.Put(c)
}

func (c *call) begin(r Request) {
	c.req, c.replied, c.node = r, false, nil
	c.sess = c.srv.session.Load()
	c.reply.B, c.args = c.reply.B[:0], fuse.Decoder{}
}

func (c *call) end() {
	if c.node != nil {
		c.node.put()
	}
	if cap(c.in) > maxKept {
		c.in = nil
	}
	clear(c.iov)
	clear(c.head)
	c.req, c.sess, c.node, c.args.B = nil, nil, nil, nil
}

func (c *call) serve() {
	if readFull(c.req, c.raw[:]) < len(c.raw) {
		return // it has not even a name to answer to
	}
	big, isInit := fuse.InitOrder(&c.raw)
	if c.sess != nil && !isInit {
		big = c.sess.big
	}
	c.args.Big, c.reply.Big = big, big
	c.hdr = fuse.ParseInHeader(&c.raw, big)
	var o op
	if c.hdr.Opcode < fuse.NumOpcodes {
		o = ops[c.hdr.Opcode]
	}
	if o.is&noReply == 0 && c.req.WritableLen() < fuse.OutHeaderSize {
		return
	}
	c.room = int(min(c.req.WritableLen(), 1<<30)) - fuse.OutHeaderSize
	e := c.run(o)
	if o.is&noReply == 0 && !c.replied {
		c.answer(e)
	}
}

// run checks what all operations of a kind have in common, and calls the operation.
func (c *call) run(o op) unix.Errno {
	switch {
	case o.run == nil:
		return unix.ENOSYS
	case c.sess == nil && c.hdr.Opcode != fuse.Init:
		return unix.EIO
	case o.is&noReply == 0 && c.room < o.reply:
		return unix.EINVAL
	}
	if e := c.copyArgs(o); e != 0 {
		return e
	}
	if o.is&noNode == 0 {
		if c.node = c.sess.node(c.hdr.NodeID); c.node == nil {
			return unix.ESTALE
		}
		switch isRoot := c.node.share == nil; {
		case isRoot && o.is&onRoot == 0:
			return o.rootErrno()
		case !isRoot && o.is&writes != 0 && c.node.share.readOnly:
			return unix.EROFS
		}
	}
	return o.run(c)
}

// copyArgs takes what follows the header into memory of ours.
func (c *call) copyArgs(o op) unix.Errno {
	size := int64(c.hdr.Len) - fuse.InHeaderSize
	switch {
	case size < 0 || uint64(size) > c.req.ReadableLen() || int64(c.hdr.ExtLen) > size:
		return unix.EINVAL
	case o.args > 0:
		size = min(size, int64(o.args))
	default:
		size -= int64(c.hdr.ExtLen) // none is negotiated
	}
	if size > maxArgs {
		return unix.E2BIG
	}
	if int64(cap(c.in)) < size {
		c.in = make([]byte, max(size, 4096))
	}
	c.in = c.in[:size]
	if readFull(c.req, c.in) < len(c.in) {
		return unix.EINVAL
	}
	c.args.B = c.in
	return 0
}

// answer writes the reply: an error, or what was encoded.
func (c *call) answer(e unix.Errno) {
	body := c.reply.B
	if e != 0 || len(body) > c.room {
		body = nil
	}
	if e == 0 && len(c.reply.B) > c.room {
		e = unix.EIO
	}
	head := c.header(len(body), e)
	_, _ = c.req.Write(head[:]) // there is room, as was checked
	_, _ = c.req.Write(body)
}

// header encodes the header of a reply with n bytes after it.
func (c *call) header(n int, e unix.Errno) (head [fuse.OutHeaderSize]byte) {
	enc := fuse.Encoder{B: head[:0], Big: c.reply.Big}
	enc.OutHeader(fuse.OutHeaderSize+n, uint32(e), c.hdr.Unique)
	return head
}

// name takes a name from the arguments.
func (c *call) name() (string, unix.Errno) {
	name := c.args.String()
	if c.args.Short {
		return "", unix.EINVAL
	}
	return name, checkName(name)
}

// handle returns the open file fh of the header's node, for use until put.
func (c *call) handle(fh uint64) (*handle, unix.Errno) {
	if c.args.Short {
		return nil, unix.EINVAL
	}
	if h := c.sess.handle(fh, c.node); h != nil {
		return h, 0
	}
	return nil, unix.EBADF
}

func readFull(r Request, p []byte) int {
	n := 0
	for n < len(p) {
		k, err := r.Read(p[n:])
		n += k
		if err != nil || k == 0 {
			break
		}
	}
	return n
}
