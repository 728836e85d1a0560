package fs

import (
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
	"github.com/huskvm/husk/vmm/virtio/fs/passthrough"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// Where the client's buffers are divided.
const (
	clientIn  = 256 << 10
	clientOut = 256 << 10
)

// client is a guest's FUSE client on the rings of a device.
type client struct {
	t        testing.TB
	dev      *Device
	drv      *virtiotest.Driver
	hi, q    *virtiotest.Queue
	in, out  uint64
	hiIn     uint64
	unique   uint64
	uid, gid uint32
}

// newDevice returns a device with one share, named "share", of dir.
func newDevice(t testing.TB, dir string, opt passthrough.Options) *Device {
	t.Helper()
	dev, err := New(Config{Tag: "husk", Workers: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := dev.AddShareWith("share", openPath(t, dir), opt); err != nil {
		t.Fatal(err)
	}
	return dev
}

func openPath(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// connect activates dev and says INIT with the given capabilities.
func connect(t testing.TB, dev *Device, caps uint64) *client {
	t.Helper()
	c := &client{t: t, dev: dev, drv: virtiotest.NewDriver(t, 1<<20)}
	c.uid, c.gid = uint32(os.Geteuid()), uint32(os.Getegid())
	c.hi, c.q = c.drv.NewQueue(16), c.drv.NewQueue(64)
	c.in, c.out, c.hiIn = c.drv.Alloc(clientIn), c.drv.Alloc(clientOut), c.drv.Alloc(64)
	a, tr := c.drv.Activation(0, c.hi, c.q)
	if err := dev.Activate(a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Reset(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-tr.Failed:
			t.Errorf("the device failed: %v", err)
		default:
		}
	})
	init := newBody().u32(fuse.Major, fuse.Minor, 128<<10, uint32(caps)|uint32(fuse.CapInitExt), uint32(caps>>32)).zero(44)
	c.must(fuse.Init, 0, init)
	return c
}

// shareOf is a client of a device that shares dir, and the node of the share.
func shareOf(t testing.TB, dir string, opt passthrough.Options) (*client, uint64) {
	t.Helper()
	c := connect(t, newDevice(t, dir, opt), fuse.CapSubmounts|fuse.CapSetxattrExt)
	return c, c.lookup(fuse.RootID, "share").node
}

// body is the arguments of a request.
type body struct{ fuse.Encoder }

func newBody() *body { return &body{} }

func (b *body) u32(vs ...uint32) *body {
	for _, v := range vs {
		b.U32(v)
	}
	return b
}

func (b *body) u64(vs ...uint64) *body {
	for _, v := range vs {
		b.U64(v)
	}
	return b
}

func (b *body) zero(n int) *body { b.Zero(n); return b }

func (b *body) str(names ...string) *body {
	for _, s := range names {
		b.Bytes(append([]byte(s), 0))
	}
	return b
}

func (b *body) data(p []byte) *body { b.Bytes(p); return b }

// request is the bytes of one request.
func (c *client) request(op fuse.Opcode, node uint64, args *body) []byte {
	if args == nil {
		args = newBody()
	}
	c.unique++
	var e fuse.Encoder
	e.U32(uint32(fuse.InHeaderSize + len(args.B)))
	e.U32(uint32(op))
	e.U64(c.unique)
	e.U64(node)
	e.U32(c.uid)
	e.U32(c.gid)
	e.U32(1)
	e.U32(0)
	return append(e.B, args.B...)
}

// raw sends bytes as they are, with room for a reply, and returns the reply.
func (c *client) raw(req []byte, room int) []byte {
	c.t.Helper()
	copy(c.drv.Bytes(c.in, len(req)), req)
	head := min(len(req), 30) // descriptors may be divided anywhere
	chain := []virtiotest.Desc{{Addr: c.in, Len: uint32(head)}, {Addr: c.in + uint64(head), Len: uint32(len(req) - head)}}
	if room > 0 {
		first := min(room, 9)
		chain = append(chain, virtiotest.Desc{Addr: c.out, Len: uint32(first), Writable: true},
			virtiotest.Desc{Addr: c.out + uint64(first), Len: uint32(room - first), Writable: true})
	}
	c.q.Submit(0, chain...)
	_, n := c.q.Used()
	return append([]byte(nil), c.drv.Bytes(c.out, int(n))...)
}

// call sends a request and returns what came back.
func (c *client) call(op fuse.Opcode, node uint64, args *body) (unix.Errno, reply) {
	c.t.Helper()
	out := c.raw(c.request(op, node, args), clientOut)
	if len(out) < fuse.OutHeaderSize {
		c.t.Fatalf("operation %d: a reply of %d bytes", op, len(out))
	}
	d := fuse.Decoder{B: out}
	n, e, unique := d.U32(), -int32(d.U32()), d.U64()
	if int(n) != len(out) || unique != c.unique || (e != 0 && n != fuse.OutHeaderSize) {
		c.t.Fatalf("operation %d: header says %d bytes, error %d, unique %d; %d bytes came for %d", op, n, e, unique, len(out), c.unique)
	}
	return unix.Errno(e), reply{fuse.Decoder{B: out[fuse.OutHeaderSize:]}}
}

// must is call for what has to succeed.
func (c *client) must(op fuse.Opcode, node uint64, args *body) reply {
	c.t.Helper()
	e, r := c.call(op, node, args)
	if e != 0 {
		c.t.Fatalf("operation %d on node %d: %v", op, node, e)
	}
	return r
}

// fails is call for what has to fail.
func (c *client) fails(want unix.Errno, op fuse.Opcode, node uint64, args *body) {
	c.t.Helper()
	if e, _ := c.call(op, node, args); e != want {
		c.t.Errorf("operation %d on node %d: error %d (%v), want %d (%v)", op, node, e, e, want, want)
	}
}

// forget goes by the high priority queue, and has no reply.
func (c *client) forget(node, n uint64) {
	c.t.Helper()
	req := c.request(fuse.Forget, node, newBody().u64(n))
	copy(c.drv.Bytes(c.hiIn, len(req)), req)
	c.hi.Submit(0, virtiotest.Desc{Addr: c.hiIn, Len: uint32(len(req))})
	if _, n := c.hi.Used(); n != 0 {
		c.t.Errorf("forget: a reply of %d bytes", n)
	}
}

// reply is what comes after the header.
type reply struct{ fuse.Decoder }

// attr is struct fuse_attr.
type attr struct {
	ino, size           uint64
	mode, nlink         uint32
	uid, gid, rdev      uint32
	flags               uint32
	atime, mtime, ctime uint64
}

// entry is struct fuse_entry_out.
type entry struct {
	node      uint64
	nameValid uint64
	attrValid uint64
	attr
}

func (r *reply) attr() (a attr) {
	a.ino, a.size = r.U64(), r.U64()
	r.U64()
	a.atime, a.mtime, a.ctime = r.U64(), r.U64(), r.U64()
	r.Bytes(12)
	a.mode, a.nlink, a.uid, a.gid, a.rdev = r.U32(), r.U32(), r.U32(), r.U32(), r.U32()
	r.U32()
	a.flags = r.U32()
	return a
}

func (r *reply) entry() (e entry) {
	e.node = r.U64()
	r.U64()
	e.nameValid, e.attrValid = r.U64(), r.U64()
	r.U64()
	e.attr = r.attr()
	return e
}

func (c *client) lookup(dir uint64, name string) entry {
	c.t.Helper()
	r := c.must(fuse.Lookup, dir, newBody().str(name))
	return r.entry()
}

// missing tells whether a name is known not to exist, by error or by a negative entry.
func (c *client) missing(dir uint64, name string) bool {
	c.t.Helper()
	e, r := c.call(fuse.Lookup, dir, newBody().str(name))
	return e == unix.ENOENT || (e == 0 && r.U64() == 0)
}

func (c *client) getattr(node uint64) attr {
	c.t.Helper()
	r := c.must(fuse.Getattr, node, newBody().zero(16))
	r.Bytes(16)
	return r.attr()
}

func (c *client) create(dir uint64, name string, flags, mode uint32) (entry, uint64) {
	c.t.Helper()
	r := c.must(fuse.Create, dir, newBody().u32(flags, unix.S_IFREG|mode, 0o022, 0).str(name))
	return r.entry(), r.U64()
}

func (c *client) open(node uint64, flags uint32) uint64 {
	c.t.Helper()
	r := c.must(fuse.Open, node, newBody().u32(flags, 0))
	return r.U64()
}

func (c *client) write(node, fh, off uint64, p []byte, flags uint32) int {
	c.t.Helper()
	r := c.must(fuse.Write, node, newBody().u64(fh, off).u32(uint32(len(p)), 0).u64(0).u32(flags, 0).data(p))
	return int(r.U32())
}

func (c *client) read(node, fh, off uint64, n int) []byte {
	c.t.Helper()
	r := c.must(fuse.Read, node, newBody().u64(fh, off).u32(uint32(n), 0).u64(0).u32(0, 0))
	return r.B
}

func (c *client) release(node, fh uint64) {
	c.t.Helper()
	c.must(fuse.Release, node, newBody().u64(fh, 0, 0))
}

// dirent is one entry of a directory.
type dirent struct {
	ino, off uint64
	typ      uint32
	name     string
	entry    entry
}

// list reads a whole directory, size bytes at a time.
func (c *client) list(node uint64, size uint32, plus bool) []dirent {
	c.t.Helper()
	r := c.must(fuse.Opendir, node, newBody().u32(0, 0))
	fh := r.U64()
	defer c.must(fuse.Releasedir, node, newBody().u64(fh, 0, 0))
	var all []dirent
	for off := uint64(0); ; {
		some := c.listAt(node, fh, off, size, plus)
		if len(some) == 0 {
			return all
		}
		all = append(all, some...)
		off = all[len(all)-1].off
	}
}

func (c *client) listAt(node, fh, off uint64, size uint32, plus bool) (some []dirent) {
	c.t.Helper()
	op := fuse.Readdir
	if plus {
		op = fuse.Readdirplus
	}
	r := c.must(op, node, newBody().u64(fh, off).u32(size, 0).u64(0).u32(0, 0))
	if len(r.B) > int(size) {
		c.t.Fatalf("directory: %d bytes asked, %d came", size, len(r.B))
	}
	for len(r.B) > 0 {
		var d dirent
		if plus {
			d.entry = r.entry()
		}
		d.ino, d.off = r.U64(), r.U64()
		n := int(r.U32())
		d.typ = r.U32()
		d.name = string(r.Bytes(n))
		r.Bytes(fuse.DirentLen(n) - fuse.DirentSize - n)
		if r.Short {
			c.t.Fatal("directory: the last entry is cut off")
		}
		some = append(some, d)
	}
	return some
}

// openFiles counts the descriptors of this process.
func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
