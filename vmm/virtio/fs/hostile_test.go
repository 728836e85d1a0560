package fs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
	"github.com/huskvm/husk/vmm/virtio/fs/passthrough"
)

// TestWhatTakesTheNameOfANewDirectoryIsNotGivenAway has somebody on the host swap a private directory for each
// one that a guest's user makes, as who may write the directory can.
func TestWhatTakesTheNameOfANewDirectoryIsNotGivenAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	dir := t.TempDir()
	private := filepath.Join(dir, "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(private, "key"), "secret")
	held := openPath(t, private)
	defer func() { _ = held.Close() }()
	c, share := shareOf(t, dir, passthrough.Options{Validity: -1})
	c.uid, c.gid = 1000, 1000

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, private, unix.AT_FDCWD, dir+"/new", unix.RENAME_EXCHANGE)
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for until := time.Now().Add(500 * time.Millisecond); time.Now().Before(until); {
		if e, r := c.call(fuse.Mkdir, share, newBody().u32(0o755, 0).str("new")); e == 0 {
			n := r.entry().node
			c.forget(n, 1)
		} else if e != unix.ESTALE && e != unix.EEXIST {
			t.Fatal(e)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(held.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != 0 {
			t.Fatal("another's directory was given to the guest's user")
		}
		// Whichever of the two is the empty one.
		_ = unix.Rmdir(dir + "/new")
		_ = unix.Rmdir(private)
	}
}

// TestConcurrentRequestsOfOneGuest is for the race detector: what a guest's CPUs send at once is about the same
// nodes and handles, sessions begin and shares go underneath. Nothing is left open by it.
func TestConcurrentRequestsOfOneGuest(t *testing.T) {
	dir := t.TempDir()
	dev := newDevice(t, dir, passthrough.Options{})
	files := openFiles(t)
	var ids [32]atomic.Uint64 // nodes and handles lately seen, by all
	var wg sync.WaitGroup
	var worked atomic.Int64
	for worker := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(worker)))
			c := client{t: t}
			out := make([]byte, 8192)
			id := func() uint64 { return ids[r.IntN(len(ids))].Load() }
			name := func() string { return fmt.Sprint(r.IntN(4)) }
			// send remembers what is at the offsets in the reply.
			send := func(op fuse.Opcode, node uint64, args *body, at ...int) {
				req := &bytesRequest{in: c.request(op, node, args), out: out}
				dev.server.Handle(req)
				if req.written < fuse.OutHeaderSize || le32(out[4:]) != 0 {
					return
				}
				worked.Add(1)
				for _, off := range at {
					d := fuse.Decoder{B: out[fuse.OutHeaderSize+off:]}
					ids[r.IntN(len(ids))].Store(d.U64())
				}
			}
			find := func() { send(fuse.Lookup, fuse.RootID, newBody().str("share"), make([]int, len(ids)/2)...) }
			begin := func() {
				send(fuse.Init, 0, newBody().u32(fuse.Major, fuse.Minor, 0, ^uint32(0), 0).zero(44))
				find()
			}
			begin()
			for range 5000 {
				switch r.IntN(15) {
				case 0:
					find()
				case 1:
					send(fuse.Lookup, id(), newBody().str(name()), 0)
				case 2:
					send(fuse.Create, id(), newBody().u32(unix.O_RDWR, 0o644, 0, 0).str(name()), 0, fuse.EntryOutSize)
				case 3:
					send(fuse.Mkdir, id(), newBody().u32(0o755, 0).str(name()), 0)
				case 4:
					send(fuse.Forget, id(), newBody().u64(r.Uint64N(3)))
				case 5:
					send(fuse.Open, id(), newBody().u32(unix.O_RDWR, 0), 0)
				case 6:
					send(fuse.Opendir, id(), newBody().u32(0, 0), 0)
				case 7:
					send(fuse.Release, id(), newBody().u64(id(), 0, 0))
				case 8:
					send(fuse.Write, id(), newBody().u64(id(), r.Uint64N(100)).u32(4, 0).u64(0).u32(0, 0).data([]byte("data")))
				case 9:
					send(fuse.Read, id(), newBody().u64(id(), 0).u32(100, 0).u64(0).u32(0, 0))
				case 10:
					send(fuse.Readdirplus, id(), newBody().u64(id(), 0).u32(4096, 0).u64(0).u32(0, 0))
				case 11:
					send(fuse.Rename, id(), newBody().u64(id()).str(name(), name()))
				case 12:
					send(fuse.Link, id(), newBody().u64(id()).str(name()), 0)
				case 13:
					send(fuse.Unlink, id(), newBody().str(name()))
				case 14:
					switch r.IntN(400) {
					case 0:
						begin()
					case 1:
						if dev.RemoveShare("share") != nil {
							break
						}
						if err := dev.AddShare("share", openPath(t, dir), false); err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	if err := dev.Reset(); err != nil {
		t.Fatal(err)
	}
	if after := openFiles(t); after != files {
		t.Errorf("%d descriptors before, %d after", files, after)
	}
	if worked.Load() < 100 {
		t.Errorf("only %d requests have succeeded", worked.Load())
	}
}

// fewFiles lets the test's process have n descriptors.
func fewFiles(t *testing.T, n uint64) {
	t.Helper()
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: n, Max: lim.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) })
}

// A guest that is told in time has no limit.
func TestAGuestThatForgetsWhenItIsCrowdedGoesOn(t *testing.T) {
	fewFiles(t, 400)
	dir := t.TempDir()
	const n = 1000
	for i := range n {
		put(t, filepath.Join(dir, fmt.Sprint(i)), "")
	}
	c, share := shareOf(t, dir, passthrough.Options{})
	var known []uint64
	told := 0
	for i := range n {
		known = append(known, c.lookup(share, fmt.Sprint(i)).node)
		select {
		case <-c.dev.Crowded():
			told++
			for _, node := range known {
				c.forget(node, 1)
			}
			known = known[:0]
		default:
		}
	}
	if told < 3 || told > 30 {
		t.Errorf("told %d times", told)
	}
}

func TestAGuestThatForgetsNothingRunsIntoItsLimit(t *testing.T) {
	fewFiles(t, 400)
	dir := t.TempDir()
	const n = 300
	for i := range n {
		put(t, filepath.Join(dir, fmt.Sprint(i)), "")
	}
	c, share := shareOf(t, dir, passthrough.Options{})
	var known []uint64
	for i := range n {
		e, r := c.call(fuse.Lookup, share, newBody().str(fmt.Sprint(i)))
		if e == unix.ENFILE {
			break
		} else if e != 0 {
			t.Fatal(e)
		}
		known = append(known, r.entry().node)
	}
	if len(known) < 100 || len(known) == n {
		t.Fatalf("%d nodes on 400 descriptors", len(known))
	}
	c.fails(unix.ENFILE, fuse.Open, known[0], newBody().u32(unix.O_RDONLY, 0))
	c.fails(unix.ENFILE, fuse.Opendir, share, newBody().u32(0, 0))
	c.fails(unix.ENFILE, fuse.Mkdir, share, newBody().u32(0o755, 0).str("dir"))
	c.fails(unix.ENFILE, fuse.Create, share, newBody().u32(unix.O_RDWR, 0o644, 0, 0).str("file"))
	for _, name := range []string{"dir", "file"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left of a creation that failed: %v", name, err)
		}
	}
	for _, node := range known[1:] {
		c.forget(node, 1)
	}
	c.release(known[0], c.open(known[0], unix.O_RDONLY))
	if got := len(c.list(share, 4096, false)); got != n+2 {
		t.Errorf("%d entries", got)
	}
}

func TestReleasedAndForgottenIsGone(t *testing.T) {
	c, share := shareOf(t, t.TempDir(), passthrough.Options{})
	e, fh := c.create(share, "f", unix.O_RDWR, 0o644)
	read := func(fh uint64) *body { return newBody().u64(fh, 0).u32(1, 0).u64(0).u32(0, 0) }
	c.lookup(share, "f")
	c.forget(e.node, 1)
	c.getattr(e.node) // one lookup is left
	other := c.open(e.node, unix.O_RDWR)
	c.release(e.node, fh)
	c.fails(unix.EBADF, fuse.Read, e.node, read(fh))
	c.fails(unix.EBADF, fuse.Release, e.node, newBody().u64(fh, 0, 0))
	c.fails(unix.EBADF, fuse.Write, e.node, newBody().u64(fh, 0).u32(1, 0).u64(0).u32(0, 0).data([]byte("x")))
	c.fails(unix.EBADF, fuse.Fallocate, e.node, newBody().u64(fh, 0, 1).u32(0, 0))
	c.fails(unix.EBADF, fuse.Lseek, e.node, newBody().u64(fh, 0).u32(unix.SEEK_DATA, 0))
	c.forget(e.node, 1)
	c.forget(e.node, ^uint64(0)) // once more
	c.fails(unix.ESTALE, fuse.Getattr, e.node, newBody().zero(16))
	c.fails(unix.ESTALE, fuse.Read, e.node, read(other))
	again := c.lookup(share, "f")
	if again.node == e.node {
		t.Errorf("node id %d is used again", e.node)
	}
	c.fails(unix.EBADF, fuse.Read, again.node, read(other)) // a handle of the node that was
}

func TestNothingGoesIntoAReadOnlyShareFromAnother(t *testing.T) {
	dir, ro := t.TempDir(), t.TempDir()
	c, share := shareOf(t, dir, passthrough.Options{})
	if err := c.dev.AddShare("ro", openPath(t, ro), true); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(ro, "f"), "text")
	target := c.lookup(fuse.RootID, "ro").node
	e, fh := c.create(share, "a", unix.O_RDWR, 0o644)
	c.write(e.node, fh, 0, []byte("mine"), 0)
	f := c.lookup(target, "f")
	out := c.open(f.node, unix.O_RDONLY)
	c.fails(unix.EROFS, fuse.CopyFileRange, e.node, newBody().u64(fh, 0, f.node, out, 0, 4, 0))
	c.fails(unix.EBADF, fuse.CopyFileRange, e.node, newBody().u64(fh, 0, e.node, out, 0, 4, 0))
	c.fails(unix.EROFS, fuse.Link, target, newBody().u64(e.node).str("a"))
	c.fails(unix.EXDEV, fuse.Link, share, newBody().u64(f.node).str("f"))
	for flags := range uint32(unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE) {
		c.fails(unix.EXDEV, fuse.Rename2, share, newBody().u64(target).u32(flags, 0).str("a", "f"))
		c.fails(unix.EROFS, fuse.Rename2, target, newBody().u64(share).u32(flags, 0).str("f", "a"))
	}
	c.must(fuse.CopyFileRange, f.node, newBody().u64(out, 0, e.node, fh, 0, 4, 0))
	if got := get(t, filepath.Join(dir, "a")) + get(t, filepath.Join(ro, "f")); got != "texttext" {
		t.Errorf("content %q", got)
	}
}

func TestAReadOnlyShareKeepsItsAccessTimes(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "d")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	path := put(t, filepath.Join(sub, "f"), "text")
	old := time.Unix(1e9, 0) // older than the last change, so that relatime too would renew it
	for _, p := range []string{path, sub} {
		if err := os.Chtimes(p, old, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	c, share := shareOf(t, dir, passthrough.Options{ReadOnly: true})
	d := c.lookup(share, "d").node
	f := c.lookup(d, "f").node
	c.read(f, c.open(f, unix.O_RDONLY), 0, 10)
	c.list(d, 4096, false)
	for _, p := range []string{path, sub} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := st.Sys().(*syscall.Stat_t).Atim.Sec; int64(got) != old.Unix() {
			t.Errorf("%s: access time %d", p, got)
		}
	}
}

func TestWritesDropCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to set capabilities")
	}
	// struct vfs_cap_data, version 2: CAP_NET_RAW, effective.
	value := []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	c, share := shareOf(t, t.TempDir(), passthrough.Options{})
	e, fh := c.create(share, "f", unix.O_RDWR, 0o755)
	get := newBody().u32(64, 0).str("security.capability")
	for what, do := range map[string]func(){
		"write": func() { c.write(e.node, fh, 0, []byte("x"), 0) },
		"truncate": func() {
			c.must(fuse.Setattr, e.node, newBody().u32(fuse.SetSize|fuse.SetFH, 0).u64(fh, 7).zero(64))
		},
		"chown": func() {
			c.must(fuse.Setattr, e.node, newBody().u32(fuse.SetUID, 0).zero(60).u32(0, 0, 1000, 0, 0))
		},
	} {
		set := newBody().u32(uint32(len(value)), 0, 0, 0).str("security.capability").data(value)
		if e, _ := c.call(fuse.Setxattr, e.node, set); e != 0 {
			t.Skipf("no capabilities on this file system: %v", e)
		}
		c.must(fuse.Getxattr, e.node, get)
		do()
		c.fails(unix.ENODATA, fuse.Getxattr, e.node, get)
		if t.Failed() {
			t.Fatalf("after %s", what)
		}
	}
}

func TestTransfersAreBounded(t *testing.T) {
	c, share := shareOf(t, t.TempDir(), passthrough.Options{})
	e, fh := c.create(share, "f", unix.O_RDWR, 0o644)
	c.fails(unix.EINVAL, fuse.Read, e.node, newBody().u64(fh, 0).u32(16<<20+1, 0).u64(0).u32(0, 0))
	if got := c.read(e.node, fh, 0, 16<<20); len(got) != 0 {
		t.Errorf("%d bytes of an empty file", len(got))
	}
}
