package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio"
	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
	"github.com/huskvm/husk/vmm/virtio/fs/passthrough"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

var _ virtio.Device = (*Device)(nil)

func put(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func get(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConfigurationSpaceHoldsTagAndQueues(t *testing.T) {
	d, err := New(Config{Tag: "husk", Queues: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	p := make([]byte, 44)
	d.ReadConfig(p, 0)
	if string(p[:5]) != "husk\x00" || le32(p[36:]) != 3 || le32(p[40:]) != 0 {
		t.Errorf("configuration: %q", p)
	}
	if q := d.Queues(); len(q) != 4 {
		t.Errorf("queues: %v", q)
	}
	for _, tag := range []string{"", string(make([]byte, 37))} {
		if _, err := New(Config{Tag: tag}); err == nil {
			t.Errorf("tag of %d bytes: no error", len(tag))
		}
	}
}

func TestInitNegotiatesOnlyWhatIsWantedAndThere(t *testing.T) {
	c := connect(t, newDevice(t, t.TempDir(), passthrough.Options{}), 0)
	r := c.must(fuse.Init, 0, newBody().u32(7, 38, 4096, ^uint32(0), ^uint32(0)).zero(44))
	major, minor, ra, flags := r.U32(), r.U32(), r.U32(), r.U32()
	if major != 7 || minor != 38 || ra != 4096 {
		t.Errorf("version %d.%d, read-ahead %d", major, minor, ra)
	}
	const writeback, locks, flocks = 1 << 16, 1 << 1, 1 << 10
	if flags&(writeback|locks|flocks) != 0 || flags&uint32(fuse.CapKillprivV2) == 0 || flags&uint32(fuse.CapMaxPages) == 0 {
		t.Errorf("capabilities %#x", flags)
	}
	r.U32()
	if w := r.U32(); w != 1<<20 {
		t.Errorf("max_write %d", w)
	}
	r.U32()
	if p := r.U16(); p != 256 {
		t.Errorf("max_pages %d", p)
	}
	c.fails(unix.EPROTO, fuse.Init, 0, newBody().u32(7, 30, 0, 0))
	r = c.must(fuse.Init, 0, newBody().u32(8, 0, 0, 0))
	if r.U32() != 7 {
		t.Error("a newer major version is not answered with ours")
	}
}

func TestBeforeInitThereIsNothing(t *testing.T) {
	c := connect(t, newDevice(t, t.TempDir(), passthrough.Options{}), 0)
	c.must(fuse.Destroy, 0, nil)
	c.fails(unix.EIO, fuse.Getattr, fuse.RootID, newBody().zero(16))
	c.must(fuse.Init, 0, newBody().u32(7, 38, 4096, 0))
	if a := c.getattr(fuse.RootID); a.mode != unix.S_IFDIR|0o555 {
		t.Errorf("root: mode %#o", a.mode)
	}
}

func TestBigEndianGuestsAreUnderstood(t *testing.T) {
	dir := t.TempDir()
	c := connect(t, newDevice(t, dir, passthrough.Options{}), 0)
	send := func(op fuse.Opcode, node uint64, args func(*fuse.Encoder)) fuse.Decoder {
		t.Helper()
		e := fuse.Encoder{Big: true}
		args(&e)
		h := fuse.Encoder{Big: true}
		h.U32(uint32(fuse.InHeaderSize + len(e.B)))
		h.U32(uint32(op))
		h.U64(7)
		h.U64(node)
		h.Zero(16)
		d := fuse.Decoder{Big: true, B: c.raw(append(h.B, e.B...), 4096)}
		d.U32()
		if e, unique := d.U32(), d.U64(); e != 0 || unique != 7 {
			t.Fatalf("operation %d: error %d, unique %d", op, -int32(e), unique)
		}
		return d
	}
	d := send(fuse.Init, 0, func(e *fuse.Encoder) { e.U32(7); e.U32(38); e.U32(0); e.U32(0) })
	if v := d.U32(); v != 7 {
		t.Fatalf("major %d", v)
	}
	d = send(fuse.Lookup, fuse.RootID, func(e *fuse.Encoder) { e.Bytes([]byte("share\x00")) })
	if id := d.U64(); id < 2 || id > 100 {
		t.Errorf("node %#x", id)
	}
}

func TestRootListsSharesAndIsReadOnly(t *testing.T) {
	dir := t.TempDir()
	c, _ := shareOf(t, dir, passthrough.Options{})
	if err := c.dev.AddShare("file", openPath(t, put(t, filepath.Join(dir, "f"), "text")), false); err != nil {
		t.Fatal(err)
	}
	for _, plus := range []bool{false, true} {
		var names []string
		for _, d := range c.list(fuse.RootID, 300, plus) {
			names = append(names, d.name)
		}
		if want := []string{".", "..", "share", "file"}; !slices.Equal(names, want) {
			t.Errorf("root: %q", names)
		}
	}
	c.fails(unix.EROFS, fuse.Mkdir, fuse.RootID, newBody().u32(0o755, 0).str("new"))
	c.fails(unix.EROFS, fuse.Unlink, fuse.RootID, newBody().str("file"))
	c.fails(unix.EROFS, fuse.Setattr, fuse.RootID, newBody().zero(88))
	c.fails(unix.ENOENT, fuse.Lookup, fuse.RootID, newBody().str("other"))
	c.must(fuse.Statfs, fuse.RootID, nil)
}

func TestAShareOfAFileExposesThatFileOnly(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "secret"), "no")
	c, _ := shareOf(t, put(t, filepath.Join(dir, "hosts"), "127.0.0.1"), passthrough.Options{})
	e := c.lookup(fuse.RootID, "share")
	if e.mode&unix.S_IFMT != unix.S_IFREG || e.flags != 0 {
		t.Fatalf("mode %#o, flags %#x", e.mode, e.flags)
	}
	fh := c.open(e.node, unix.O_RDWR)
	if got := c.read(e.node, fh, 0, 100); string(got) != "127.0.0.1" {
		t.Errorf("read %q", got)
	}
	c.write(e.node, fh, 0, []byte("::1......"), 0)
	if got := get(t, filepath.Join(dir, "hosts")); got != "::1......" {
		t.Errorf("on the host: %q", got)
	}
	for _, name := range []string{"secret", "..", ".", "", "../secret", "hosts"} {
		if er, _ := c.call(fuse.Lookup, e.node, newBody().str(name)); er == 0 {
			t.Errorf("lookup of %q below a file works", name)
		}
	}
	c.fails(unix.ENOTDIR, fuse.Opendir, e.node, newBody().u32(0, 0))
	c.fails(unix.ENOTDIR, fuse.Mkdir, e.node, newBody().u32(0o755, 0).str("x"))
	c.fails(unix.ENOTDIR, fuse.Create, e.node, newBody().u32(unix.O_RDWR, 0o644, 0, 0).str("x"))
}

func TestReadOnlySharesRefuseEveryChange(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "text")
	c, share := shareOf(t, dir, passthrough.Options{ReadOnly: true})
	f := c.lookup(share, "f").node
	for op, args := range map[fuse.Opcode]*body{
		fuse.Create:      newBody().u32(unix.O_RDWR, 0o644, 0, 0).str("n"),
		fuse.Tmpfile:     newBody().u32(unix.O_RDWR, 0o644, 0, 0).str("/"),
		fuse.Mknod:       newBody().u32(unix.S_IFIFO|0o644, 0, 0, 0).str("n"),
		fuse.Mkdir:       newBody().u32(0o755, 0).str("n"),
		fuse.Symlink:     newBody().str("n", "target"),
		fuse.Link:        newBody().u64(f).str("n"),
		fuse.Unlink:      newBody().str("f"),
		fuse.Rmdir:       newBody().str("f"),
		fuse.Rename:      newBody().u64(share).str("f", "g"),
		fuse.Rename2:     newBody().u64(share).u32(0, 0).str("f", "g"),
		fuse.Setattr:     newBody().u32(fuse.SetMode).zero(84),
		fuse.Setxattr:    newBody().u32(1, 0, 0, 0).str("user.a").data([]byte("v")),
		fuse.Removexattr: newBody().str("user.a"),
		fuse.Access:      newBody().u32(unix.W_OK, 0),
	} {
		c.fails(unix.EROFS, op, share, args)
	}
	c.fails(unix.EROFS, fuse.Open, f, newBody().u32(unix.O_WRONLY, 0))
	c.fails(unix.EROFS, fuse.Open, f, newBody().u32(unix.O_RDONLY|unix.O_TRUNC, 0))
	c.fails(unix.EROFS, fuse.Setattr, f, newBody().u32(fuse.SetSize).zero(84))
	fh := c.open(f, unix.O_RDONLY)
	c.fails(unix.EROFS, fuse.Write, f, newBody().u64(fh, 0).u32(1, 0).u64(0).u32(0, 0).data([]byte("x")))
	c.fails(unix.EROFS, fuse.Fallocate, f, newBody().u64(fh, 0, 10).u32(0, 0))
	if got := c.read(f, fh, 0, 10); string(got) != "text" {
		t.Errorf("read %q", got)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 || get(t, filepath.Join(dir, "f")) != "text" {
		t.Errorf("the host's directory has changed: %v", list)
	}
}

func TestSharesComeAndGoWhileInUse(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	put(t, filepath.Join(dir, "f"), "text")
	c, share := shareOf(t, dir, passthrough.Options{})
	f := c.lookup(share, "f").node
	fh := c.open(f, unix.O_RDWR)
	if err := c.dev.AddShare("share", openPath(t, other), false); !errors.Is(err, passthrough.ErrExists) {
		t.Errorf("a second share of the same name: %v", err)
	}
	for _, name := range []string{"", ".", "..", "a/b", string(make([]byte, 256))} {
		if err := c.dev.AddShare(name, openPath(t, other), false); err == nil {
			t.Errorf("a share named %q: no error", name)
		}
	}
	if err := c.dev.AddShare("other", openPath(t, other), false); err != nil {
		t.Fatal(err)
	}
	c.lookup(fuse.RootID, "other")
	before := openFiles(t)
	if err := c.dev.RemoveShare("share"); err != nil {
		t.Fatal(err)
	}
	if closed := before - openFiles(t); closed != 4 {
		t.Errorf("%d descriptors closed, want 4: share, its directory, file, open file", closed)
	}
	c.fails(unix.ESTALE, fuse.Getattr, f, newBody().zero(16))
	c.fails(unix.ESTALE, fuse.Read, f, newBody().u64(fh, 0).u32(1, 0).u64(0).u32(0, 0))
	c.fails(unix.ESTALE, fuse.Lookup, share, newBody().str("f"))
	c.fails(unix.ENOENT, fuse.Lookup, fuse.RootID, newBody().str("share"))
	c.lookup(fuse.RootID, "other")
	if err := c.dev.RemoveShare("share"); !errors.Is(err, passthrough.ErrUnknown) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestSharesOfSymbolicLinksAreRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "l")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(link, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := newDevice(t, dir, passthrough.Options{}).AddShare("l", os.NewFile(uintptr(fd), link), false); err == nil {
		t.Error("no error")
	}
}

func TestNothingIsLeftOpenAfterReset(t *testing.T) {
	dir := t.TempDir()
	dev := newDevice(t, dir, passthrough.Options{})
	before := openFiles(t)
	c := connect(t, dev, 0)
	share := c.lookup(fuse.RootID, "share").node
	for i := range 50 {
		e, _ := c.create(share, fmt.Sprint(i), unix.O_RDWR, 0o644)
		c.open(e.node, unix.O_RDONLY)
		c.must(fuse.Opendir, share, newBody().u32(0, 0))
	}
	if err := dev.Reset(); err != nil {
		t.Fatal(err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestThousandsOfOpensAndForgetsLeakNothing(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		put(t, filepath.Join(dir, fmt.Sprint(i)), "x")
	}
	c, share := shareOf(t, dir, passthrough.Options{})
	before := openFiles(t)
	for i := range 3000 {
		e := c.lookup(share, fmt.Sprint(i%100))
		fh := c.open(e.node, unix.O_RDONLY)
		c.release(e.node, fh)
		if i%2 == 0 {
			c.forget(e.node, 1)
		} else {
			req := newBody().u32(1, 0).u64(e.node, 1)
			c.raw(c.request(fuse.BatchForget, 0, req), 0)
		}
	}
	if got := len(c.list(share, 4096, true)); got != 102 {
		t.Errorf("%d entries", got)
	}
	if after := openFiles(t); after != before+100 {
		t.Errorf("%d descriptors before, %d after a readdirplus of 100", before, after)
	}
}

func TestASlowRequestHoldsUpNoOther(t *testing.T) {
	dir := t.TempDir()
	c, share := shareOf(t, dir, passthrough.Options{})
	e, fh := c.create(share, "big", unix.O_RDWR, 0o644)
	if err := os.Truncate(filepath.Join(dir, "big"), 1<<20); err != nil {
		t.Fatal(err)
	}
	// Many at once, on different descriptors and buffers, answered in whatever order.
	const n = 12
	for i := range n {
		req := c.request(fuse.Read, e.node, newBody().u64(fh, 0).u32(16<<10, 0).u64(0).u32(0, 0))
		if i%3 == 0 {
			req = c.request(fuse.Fsync, e.node, newBody().u64(fh).u32(0, 0))
		}
		c.q.Submit(uint16(2*i), virtiotest.Desc{Addr: c.drv.Put(req), Len: uint32(len(req))},
			virtiotest.Desc{Addr: c.drv.Alloc(20 << 10), Len: 20 << 10, Writable: true})
	}
	seen := map[uint16]bool{}
	for range n {
		head, written := c.q.Used()
		if seen[head] || written < fuse.OutHeaderSize {
			t.Errorf("chain %d: used twice or short: %d bytes", head, written)
		}
		seen[head] = true
	}
}

// TestRenamesAndLinksDontLeadOut swaps a directory for a symbolic link to the outside all the while.
func TestRenamesAndLinksDontLeadOut(t *testing.T) {
	top := t.TempDir()
	dir, outside := filepath.Join(top, "in"), filepath.Join(top, "out")
	for _, d := range []string{dir, outside, filepath.Join(dir, "d")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(outside, "secret"), "secret")
	put(t, filepath.Join(dir, "d", "secret"), "public")
	if err := os.Symlink("../out", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../out/secret", filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	c, share := shareOf(t, dir, passthrough.Options{Validity: -1})
	f := c.lookup(share, "f")
	c.fails(unix.ELOOP, fuse.Open, f.node, newBody().u32(unix.O_RDONLY, 0))
	c.fails(unix.ENOTDIR, fuse.Lookup, c.lookup(share, "l").node, newBody().str("secret"))
	c.fails(unix.ENOTDIR, fuse.Mkdir, c.lookup(share, "l").node, newBody().u32(0o755, 0).str("x"))

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir+"/d", unix.AT_FDCWD, dir+"/l", unix.RENAME_EXCHANGE)
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); {
		d := c.lookup(share, "d")
		if e, r := c.call(fuse.Lookup, d.node, newBody().str("secret")); e == 0 {
			s := r.entry()
			fh := c.open(s.node, unix.O_RDONLY)
			if got := c.read(s.node, fh, 0, 10); string(got) != "public" {
				t.Fatalf("read %q", got)
			}
			c.release(s.node, fh)
		} else if e != unix.ENOTDIR {
			t.Fatal(e)
		}
		if e, _ := c.call(fuse.Create, d.node, newBody().u32(unix.O_RDWR, 0o644, 0, 0).str("new")); e != 0 && e != unix.ENOTDIR && e != unix.ESTALE {
			t.Fatal(e)
		}
		c.call(fuse.Symlink, d.node, newBody().str("s", "/etc"))
		c.call(fuse.Unlink, d.node, newBody().str("s"))
	}
	if list, _ := os.ReadDir(outside); len(list) != 1 || get(t, outside+"/secret") != "secret" {
		t.Errorf("outside: %v", list)
	}
}
