package fs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
	"github.com/huskvm/husk/vmm/virtio/fs/passthrough"
)

func TestFilesAreCreatedWrittenReadAndTruncated(t *testing.T) {
	dir := t.TempDir()
	c, share := shareOf(t, dir, passthrough.Options{})
	e, fh := c.create(share, "f", unix.O_RDWR, 0o666)
	if e.mode != unix.S_IFREG|0o644 {
		t.Errorf("mode %#o: the umask is ours to apply", e.mode)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 10000)
	if n := c.write(e.node, fh, 5, big, 0); n != len(big) {
		t.Fatalf("wrote %d of %d", n, len(big))
	}
	if got := c.read(e.node, fh, 5, len(big)); !bytes.Equal(got, big) {
		t.Errorf("read %d bytes that differ", len(got))
	}
	if got := c.read(e.node, fh, uint64(len(big)), 100); len(got) != 5 {
		t.Errorf("%d bytes before the end, want 5", len(got))
	}
	if got := c.read(e.node, fh, 1<<40, 100); len(got) != 0 {
		t.Errorf("%d bytes beyond the end", len(got))
	}
	c.write(e.node, fh, 0, []byte("end"), unix.O_APPEND)
	if s := get(t, filepath.Join(dir, "f")); !strings.HasSuffix(s, "end") || s[0] != 0 {
		t.Error("an appending write must not use its offset")
	}
	c.must(fuse.Setattr, e.node, newBody().u32(fuse.SetSize|fuse.SetFH, 0).u64(fh, 7).zero(64))
	if a := c.getattr(e.node); a.size != 7 {
		t.Errorf("size %d after truncation", a.size)
	}
	c.must(fuse.Setattr, e.node, newBody().u32(fuse.SetSize, 0).u64(0, 3).zero(64))
	if a := c.getattr(e.node); a.size != 3 {
		t.Errorf("size %d after truncation without a handle", a.size)
	}
	for _, op := range []fuse.Opcode{fuse.Flush, fuse.Fsync, fuse.Release} {
		c.must(op, e.node, newBody().u64(fh, 0, 0))
	}
	c.fails(unix.EBADF, fuse.Release, e.node, newBody().u64(fh, 0, 0))
	put(t, filepath.Join(dir, "f"), "content")
	c.open(e.node, unix.O_WRONLY|unix.O_TRUNC)
	if s := get(t, filepath.Join(dir, "f")); s != "" {
		t.Errorf("%q after an open with O_TRUNC", s)
	}
}

func TestCreateOfWhatExists(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "text")
	if err := unix.Mkfifo(filepath.Join(dir, "p"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, share := shareOf(t, dir, passthrough.Options{})
	c.fails(unix.ESTALE, fuse.Create, share, newBody().u32(unix.O_RDWR|unix.O_TRUNC, 0o644, 0, 0).str("f"))
	c.fails(unix.EEXIST, fuse.Create, share, newBody().u32(unix.O_RDWR|unix.O_EXCL, 0o644, 0, 0).str("f"))
	c.fails(unix.ESTALE, fuse.Create, share, newBody().u32(unix.O_RDWR, 0o644, 0, 0).str("p")) // and doesn't block
	c.fails(unix.ENXIO, fuse.Open, c.lookup(share, "p").node, newBody().u32(unix.O_RDONLY, 0))
	if got := get(t, filepath.Join(dir, "f")); got != "text" {
		t.Errorf("content %q", got)
	}
}

func TestCreationsBelongToTheCaller(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	dir := t.TempDir()
	setgid := filepath.Join(dir, "g")
	if err := os.Mkdir(setgid, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(setgid, 0, 77); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(setgid, 0o777|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	c, share := shareOf(t, dir, passthrough.Options{})
	c.uid, c.gid = 1000, 1001
	e, _ := c.create(share, "f", unix.O_RDWR, 0o4755)
	if e.uid != 1000 || e.gid != 1001 || e.mode != unix.S_IFREG|0o4755 {
		t.Errorf("file: %d:%d %#o", e.uid, e.gid, e.mode)
	}
	for name, make := range map[string]func(dir uint64, name string) reply{
		"mkdir": func(dir uint64, name string) reply {
			return c.must(fuse.Mkdir, dir, newBody().u32(0o755, 0).str(name))
		},
		"mknod": func(dir uint64, name string) reply {
			return c.must(fuse.Mknod, dir, newBody().u32(unix.S_IFIFO|0o644, 0, 0, 0).str(name))
		},
		"symlink": func(dir uint64, name string) reply {
			return c.must(fuse.Symlink, dir, newBody().str(name, "to"))
		},
	} {
		r := make(share, name)
		if e := r.entry(); e.uid != 1000 || e.gid != 1001 {
			t.Errorf("%s: %d:%d", name, e.uid, e.gid)
		}
		r = make(c.lookup(share, "g").node, name)
		if e := r.entry(); e.uid != 1000 || e.gid != 77 || (name == "mkdir" && e.mode&unix.S_ISGID == 0) {
			t.Errorf("%s in a set-group-ID directory: %d:%d %#o", name, e.uid, e.gid, e.mode)
		}
	}
	c.uid = ^uint32(0)
	c.fails(unix.EOVERFLOW, fuse.Mkdir, share, newBody().u32(0o755, 0).str("x"))
}

func TestDevicesAreRefusedButWhiteouts(t *testing.T) {
	dir := t.TempDir()
	c, share := shareOf(t, dir, passthrough.Options{})
	mknod := func(mode, rdev uint32, name string) *body { return newBody().u32(mode|0o600, rdev, 0, 0).str(name) }
	c.fails(unix.EPERM, fuse.Mknod, share, mknod(unix.S_IFCHR, 0x103, "null"))
	c.fails(unix.EPERM, fuse.Mknod, share, mknod(unix.S_IFBLK, 0, "disk"))
	c.fails(unix.EINVAL, fuse.Mknod, share, mknod(unix.S_IFDIR, 0, "dir"))
	for name, mode := range map[string]uint32{"whiteout": unix.S_IFCHR, "fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "file": unix.S_IFREG} {
		r := c.must(fuse.Mknod, share, mknod(mode, 0, name))
		if e := r.entry(); e.mode != mode|0o600 || e.rdev != 0 {
			t.Errorf("%s: %#o, device %d", name, e.mode, e.rdev)
		}
	}
}

func TestNamesAreOneComponent(t *testing.T) {
	c, share := shareOf(t, t.TempDir(), passthrough.Options{})
	for name, want := range map[string]unix.Errno{
		"": unix.EINVAL, ".": unix.EINVAL, "..": unix.EINVAL, "a/b": unix.EINVAL, "/": unix.EINVAL, "../x": unix.EINVAL,
		strings.Repeat("n", 256): unix.ENAMETOOLONG,
	} {
		c.fails(want, fuse.Lookup, share, newBody().str(name))
		c.fails(want, fuse.Mkdir, share, newBody().u32(0o755, 0).str(name))
		c.fails(want, fuse.Mknod, share, newBody().u32(unix.S_IFREG, 0, 0, 0).str(name))
		c.fails(want, fuse.Create, share, newBody().u32(2, 0, 0, 0).str(name))
		c.fails(want, fuse.Symlink, share, newBody().str(name, "x"))
		c.fails(want, fuse.Link, share, newBody().u64(share).str(name))
		c.fails(want, fuse.Unlink, share, newBody().str(name))
		c.fails(want, fuse.Rmdir, share, newBody().str(name))
		c.fails(want, fuse.Rename, share, newBody().u64(share).str(name, "b"))
		c.fails(want, fuse.Rename, share, newBody().u64(share).str("b", name))
	}
	c.fails(unix.EINVAL, fuse.Lookup, share, newBody().data([]byte("no NUL")))
}

func TestHardLinksAreOneInode(t *testing.T) {
	dir := t.TempDir()
	c, share := shareOf(t, dir, passthrough.Options{})
	e, _ := c.create(share, "a", unix.O_RDWR, 0o644)
	r := c.must(fuse.Link, share, newBody().u64(e.node).str("b"))
	if l := r.entry(); l.node != e.node || l.nlink != 2 {
		t.Errorf("link: node %d of %d, %d links", l.node, e.node, l.nlink)
	}
	if l := c.lookup(share, "b"); l.node != e.node || l.ino != e.ino {
		t.Errorf("lookup: node %d, inode %d; want %d, %d", l.node, l.ino, e.node, e.ino)
	}
	c.must(fuse.Symlink, share, newBody().str("s", "a"))
	s := c.lookup(share, "s")
	r = c.must(fuse.Link, share, newBody().u64(s.node).str("s2"))
	if l := r.entry(); l.node != s.node {
		t.Error("a link of a symbolic link must not follow it")
	}
	r = c.must(fuse.Readlink, s.node, nil)
	if string(r.B) != "a" {
		t.Errorf("readlink: %q", r.B)
	}
	c.fails(unix.EINVAL, fuse.Readlink, e.node, nil)
	c.fails(unix.ESTALE, fuse.Link, share, newBody().u64(12345).str("c"))
	if err := c.dev.AddShare("other", openPath(t, dir), false); err != nil {
		t.Fatal(err)
	}
	other := c.lookup(fuse.RootID, "other").node
	c.fails(unix.EXDEV, fuse.Link, other, newBody().u64(e.node).str("c"))
	c.fails(unix.EXDEV, fuse.Rename, share, newBody().u64(other).str("a", "c"))
}

func TestUnnamedFilesGetANameByLink(t *testing.T) {
	dir := t.TempDir()
	c, share := shareOf(t, dir, passthrough.Options{})
	e, r := c.call(fuse.Tmpfile, share, newBody().u32(unix.O_RDWR, unix.S_IFREG|0o640, 0, 0).str("/"))
	if e == unix.EOPNOTSUPP {
		t.Skip("the file system has no O_TMPFILE")
	}
	f := r.entry()
	fh := r.U64()
	c.write(f.node, fh, 0, []byte("text"), 0)
	c.must(fuse.Link, share, newBody().u64(f.node).str("f"))
	if got := get(t, filepath.Join(dir, "f")); got != "text" {
		t.Errorf("%q", got)
	}
}

func TestRenameFlags(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a"), "A")
	put(t, filepath.Join(dir, "b"), "B")
	c, share := shareOf(t, dir, passthrough.Options{})
	rename := func(flags uint32) *body { return newBody().u64(share).u32(flags, 0).str("a", "b") }
	c.fails(unix.EEXIST, fuse.Rename2, share, rename(unix.RENAME_NOREPLACE))
	c.fails(unix.EINVAL, fuse.Rename2, share, rename(8))
	c.fails(unix.ESTALE, fuse.Rename2, share, newBody().u64(999).u32(0, 0).str("a", "b"))
	c.must(fuse.Rename2, share, rename(unix.RENAME_EXCHANGE))
	if get(t, filepath.Join(dir, "a")) != "B" {
		t.Error("not exchanged")
	}
	if e, _ := c.call(fuse.Rename2, share, rename(unix.RENAME_WHITEOUT)); e != unix.EINVAL { // a file system may lack it
		if e != 0 {
			t.Fatal(e)
		}
		if w := c.lookup(share, "a"); w.mode&unix.S_IFMT != unix.S_IFCHR || w.rdev != 0 {
			t.Errorf("whiteout: mode %#o, device %d", w.mode, w.rdev)
		}
	}
	c.must(fuse.Unlink, share, newBody().str("b"))
	if !c.missing(share, "b") {
		t.Error("b is still there")
	}
	c.fails(unix.ENOENT, fuse.Unlink, share, newBody().str("b"))
	c.must(fuse.Mkdir, share, newBody().u32(0o755, 0).str("d"))
	c.fails(unix.EISDIR, fuse.Unlink, share, newBody().str("d"))
	c.must(fuse.Rmdir, share, newBody().str("d"))
}

func TestAttributesAreSet(t *testing.T) {
	dir := t.TempDir()
	c, share := shareOf(t, dir, passthrough.Options{})
	e, _ := c.create(share, "f", unix.O_RDWR, 0o644)
	set := func(node uint64, valid, mode, uid, gid uint32, atime, mtime uint64, nsec uint32) *body {
		return newBody().u32(valid, 0).u64(0, 0, 0, atime, mtime, 0).u32(nsec, nsec, 0, mode, 0, uid, gid, 0)
	}
	const all = fuse.SetMode | fuse.SetUID | fuse.SetGID | fuse.SetAtime | fuse.SetMtime
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if uid == 0 {
		uid, gid = 1000, 1001
	}
	c.must(fuse.Setattr, e.node, set(e.node, all, 0o6711, uid, gid, 1, 1<<33, 5))
	a := c.getattr(e.node)
	if a.mode != unix.S_IFREG|0o6711 || a.uid != uid || a.gid != gid || a.atime != 1 || a.mtime != 1<<33 {
		t.Errorf("%#o %d:%d atime %d mtime %d", a.mode, a.uid, a.gid, a.atime, a.mtime)
	}
	c.must(fuse.Setattr, e.node, set(e.node, fuse.SetAtime|fuse.SetAtimeNow, 0, 0, 0, 0, 0, 0))
	if b := c.getattr(e.node); b.atime < 1e9 || b.mtime != 1<<33 {
		t.Errorf("atime %d mtime %d after setting atime to now", b.atime, b.mtime)
	}
	c.fails(unix.EINVAL, fuse.Setattr, e.node, set(e.node, fuse.SetMtime, 0, 0, 0, 0, 0, 2e9))
	c.fails(unix.EINVAL, fuse.Setattr, e.node, set(e.node, fuse.SetUID, 0, ^uint32(0), 0, 0, 0, 0))
	c.fails(unix.EINVAL, fuse.Setattr, e.node, newBody().u32(fuse.SetSize, 0).u64(0, 1<<63).zero(64))
	c.fails(unix.EISDIR, fuse.Setattr, share, newBody().u32(fuse.SetSize, 0).u64(0, 1).zero(64))

	c.must(fuse.Symlink, share, newBody().str("s", "f"))
	s := c.lookup(share, "s").node
	c.must(fuse.Setattr, s, set(s, fuse.SetMtime, 0, 0, 0, 0, 12345, 0))
	if a := c.getattr(s); a.mtime != 12345 || c.getattr(e.node).mtime != 1<<33 {
		t.Error("a symbolic link's times are its own")
	}
	c.fails(unix.EOPNOTSUPP, fuse.Setattr, s, set(s, fuse.SetMode, 0o777, 0, 0, 0, 0, 0))
	r := c.must(fuse.Statx, e.node, newBody().u32(0, 0).u64(0).u32(0, unix.STATX_BTIME))
	if len(r.B) != fuse.StatxOutSize {
		t.Errorf("statx: %d bytes", len(r.B))
	}
}

func TestWritesDropSetUserID(t *testing.T) {
	c, share := shareOf(t, t.TempDir(), passthrough.Options{})
	kill := func(name string, do func(e entry, fh uint64), want uint32) {
		t.Helper()
		e, fh := c.create(share, name, unix.O_RDWR, 0o6755)
		do(e, fh)
		if m := c.getattr(e.node).mode & 0o7777; m != want {
			t.Errorf("%s: mode %#o, want %#o", name, m, want)
		}
	}
	write := func(flags uint32) func(entry, uint64) {
		return func(e entry, fh uint64) {
			c.must(fuse.Write, e.node, newBody().u64(fh, 0).u32(1, flags).u64(0).u32(0, 0).data([]byte("x")))
		}
	}
	kill("write by who may", write(0), 0o6755)
	kill("write", write(fuse.WriteKillSuidgid), 0o755)
	kill("truncate", func(e entry, _ uint64) {
		c.must(fuse.Setattr, e.node, newBody().u32(fuse.SetSize|fuse.SetKillSuidgid).zero(84))
	}, 0o755)
	kill("open", func(e entry, _ uint64) {
		c.must(fuse.Open, e.node, newBody().u32(unix.O_WRONLY|unix.O_TRUNC, fuse.OpenKillSuidgid))
	}, 0o755)
	kill("fallocate", func(e entry, fh uint64) {
		c.uid = 1000
		defer func() { c.uid = uint32(os.Geteuid()) }()
		if er, _ := c.call(fuse.Fallocate, e.node, newBody().u64(fh, 0, 10).u32(0, 0)); er != 0 && er != unix.EOPNOTSUPP {
			t.Error(er)
		}
	}, 0o755)
}

func TestExtendedAttributes(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "")
	if err := unix.Setxattr(filepath.Join(dir, "f"), "user.probe", []byte("1"), 0); err != nil {
		t.Skipf("no extended attributes here: %v", err)
	}
	c, share := shareOf(t, dir, passthrough.Options{})
	f := c.lookup(share, "f").node
	set := func(name, value string, flags uint32) *body {
		return newBody().u32(uint32(len(value)), flags, 0, 0).str(name).data([]byte(value))
	}
	getx := func(name string, size uint32) *body { return newBody().u32(size, 0).str(name) }
	for _, name := range []string{"user.a", "trusted.overlay.opaque", "security.selinux"} {
		c.must(fuse.Setxattr, f, set(name, "value", 0))
		c.fails(unix.EEXIST, fuse.Setxattr, f, set(name, "v", unix.XATTR_CREATE))
		r := c.must(fuse.Getxattr, f, getx(name, 100))
		if string(r.B) != "value" {
			t.Errorf("%s: %q", name, r.B)
		}
		r = c.must(fuse.Getxattr, f, getx(name, 0))
		if r.U32() != 5 {
			t.Errorf("%s: wrong size", name)
		}
		c.fails(unix.ERANGE, fuse.Getxattr, f, getx(name, 4))
	}
	r := c.must(fuse.Listxattr, f, newBody().u32(4096, 0))
	names := strings.Split(strings.TrimSuffix(string(r.B), "\x00"), "\x00")
	slices.Sort(names)
	if want := []string{"security.selinux", "trusted.overlay.opaque", "user.a", "user.probe"}; !slices.Equal(names, want) {
		t.Errorf("list: %q", names)
	}
	c.fails(unix.ERANGE, fuse.Listxattr, f, newBody().u32(3, 0))
	c.fails(unix.EPERM, fuse.Setxattr, f, set("user.husk.trusted.overlay.opaque", "forged", 0))
	c.fails(unix.ENODATA, fuse.Getxattr, f, getx("user.husk.trusted.overlay.opaque", 100))
	c.fails(unix.ENODATA, fuse.Getxattr, f, getx("user.none", 100))
	c.fails(unix.EOPNOTSUPP, fuse.Setxattr, f, set("system.none", "v", 0))
	c.fails(unix.EOPNOTSUPP, fuse.Getxattr, f, getx("system.none", 100))
	c.fails(unix.EOPNOTSUPP, fuse.Removexattr, f, newBody().str("none"))
	c.fails(unix.E2BIG, fuse.Setxattr, f, set("user.b", strings.Repeat("x", 64<<10+1), 0))
	c.fails(unix.EINVAL, fuse.Setxattr, f, newBody().u32(100, 0, 0, 0).str("user.b").data([]byte("short")))
	var buf [16]byte
	if n, err := unix.Getxattr(filepath.Join(dir, "f"), "user.husk.trusted.overlay.opaque", buf[:]); err != nil || string(buf[:n]) != "value" {
		t.Errorf("on the host: %q, %v", buf[:n], err)
	}
	c.must(fuse.Removexattr, f, newBody().str("trusted.overlay.opaque"))
	c.fails(unix.ENODATA, fuse.Removexattr, f, newBody().str("trusted.overlay.opaque"))

	// What must not be opened has attributes too, if few.
	c.must(fuse.Symlink, share, newBody().str("s", "f"))
	s := c.lookup(share, "s").node
	c.must(fuse.Listxattr, s, newBody().u32(4096, 0))
	c.fails(unix.EPERM, fuse.Setxattr, s, set("user.a", "v", 0))
	c.fails(unix.ENODATA, fuse.Getxattr, s, getx("user.a", 100))
}

func TestDirectoriesAreListedToTheEndWhateverTheBuffer(t *testing.T) {
	dir := t.TempDir()
	want := []string{".", ".."}
	for i := range 500 {
		name := fmt.Sprintf("%0*d", 1+i%200, i)
		put(t, filepath.Join(dir, name), "")
		want = append(want, name)
	}
	slices.Sort(want)
	want = slices.Compact(want)
	c, share := shareOf(t, dir, passthrough.Options{})
	for _, size := range []uint32{400, 1000, 4096, 1 << 20} {
		for _, plus := range []bool{false, true} {
			var got []string
			for _, d := range c.list(share, size, plus) {
				got = append(got, d.name)
				if dots := d.name == "." || d.name == ".."; plus && dots != (d.entry.node == 0) {
					t.Errorf("%s: node %d", d.name, d.entry.node)
				}
				if plus && d.entry.node != 0 && d.entry.ino != d.ino {
					t.Errorf("%s: inode %d and %d", d.name, d.ino, d.entry.ino)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%d bytes at a time, plus %v: %d entries, want %d", size, plus, len(got), len(want))
			}
		}
	}
	r := c.must(fuse.Opendir, share, newBody().u32(0, 0))
	fh := r.U64()
	c.fails(unix.EINVAL, fuse.Readdir, share, newBody().u64(fh, 0).u32(10, 0).u64(0).u32(0, 0))
	c.fails(unix.EINVAL, fuse.Readdirplus, share, newBody().u64(fh, 0).u32(100, 0).u64(0).u32(0, 0))
	c.must(fuse.Fsyncdir, share, newBody().u64(fh).u32(0, 0))
	all := c.listAt(share, fh, 0, 1<<20, false)
	again := c.listAt(share, fh, all[100].off, 200, false)
	if again[0].name != all[101].name {
		t.Errorf("seek: %q after %q, want %q", again[0].name, all[100].name, all[101].name)
	}
}

func TestSparseFilesAndCopies(t *testing.T) {
	c, share := shareOf(t, t.TempDir(), passthrough.Options{})
	e, fh := c.create(share, "f", unix.O_RDWR, 0o644)
	c.write(e.node, fh, 1<<20, []byte("data"), 0)
	r := c.must(fuse.Lseek, e.node, newBody().u64(fh, 0).u32(unix.SEEK_DATA, 0))
	if off := r.U64(); off == 0 || off > 1<<20 {
		t.Errorf("data at %d", off)
	}
	c.fails(unix.ENXIO, fuse.Lseek, e.node, newBody().u64(fh, 1<<30).u32(unix.SEEK_DATA, 0))
	c.fails(unix.EINVAL, fuse.Lseek, e.node, newBody().u64(fh, 0).u32(unix.SEEK_SET, 0))
	to, toFH := c.create(share, "g", unix.O_RDWR, 0o644)
	r = c.must(fuse.CopyFileRange, e.node, newBody().u64(fh, 1<<20, to.node, toFH, 0, 1<<40, 0))
	if n := r.U32(); n != 4 {
		t.Errorf("%d bytes copied", n)
	}
	if got := c.read(to.node, toFH, 0, 100); string(got) != "data" {
		t.Errorf("copied %q", got)
	}
	c.fails(unix.EBADF, fuse.CopyFileRange, e.node, newBody().u64(fh, 0, to.node, fh, 0, 10, 0))
	c.must(fuse.Fallocate, e.node, newBody().u64(fh, 1<<20, 4).u32(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0))
	if got := c.read(e.node, fh, 1<<20, 4); string(got) != "\x00\x00\x00\x00" {
		t.Errorf("%q in a hole", got)
	}
	c.must(fuse.Statfs, e.node, nil)
	c.must(fuse.Syncfs, fuse.RootID, newBody().u64(0))
}

func TestWhatIsNotOfferedIsRefusedCleanly(t *testing.T) {
	c, share := shareOf(t, t.TempDir(), passthrough.Options{})
	e, fh := c.create(share, "f", unix.O_RDWR, 0o644)
	c.fails(unix.ENOTTY, fuse.Ioctl, e.node, newBody().u64(fh).zero(24))
	for _, op := range []fuse.Opcode{0, 7, 19, 31, 32, 33, 37, 40, 41, 48, 49, 53, 4096, ^fuse.Opcode(0)} {
		c.fails(unix.ENOSYS, op, e.node, newBody().zero(64))
	}
}

func TestMalformedRequestsGetAnErrorOrNothing(t *testing.T) {
	c, share := shareOf(t, t.TempDir(), passthrough.Options{})
	e, fh := c.create(share, "f", unix.O_RDWR, 0o644)
	c.fails(unix.ESTALE, fuse.Getattr, 99999, newBody().zero(16))
	c.fails(unix.EBADF, fuse.Read, e.node, newBody().u64(fh+1, 0).u32(1, 0).u64(0).u32(0, 0))
	c.fails(unix.EBADF, fuse.Read, share, newBody().u64(fh, 0).u32(1, 0).u64(0).u32(0, 0))
	c.fails(unix.EINVAL, fuse.Read, e.node, newBody().u64(fh, 1<<63).u32(1, 0).u64(0).u32(0, 0))
	c.fails(unix.EINVAL, fuse.Write, e.node, newBody().u64(fh, 0).u32(1<<30, 0).u64(0).u32(0, 0))
	c.fails(unix.EINVAL, fuse.Read, e.node, newBody().u32(1))
	c.fails(unix.ENOTDIR, fuse.Lookup, e.node, newBody().str("x"))
	c.fails(unix.EISDIR, fuse.Open, share, newBody().u32(0, 0))
	c.fails(unix.EINVAL, fuse.Open, e.node, newBody().u32(3, 0))

	long := c.request(fuse.Getattr, share, newBody().zero(16))
	long[0] = 255
	if out := c.raw(long, 4096); -int32(le32(out[4:])) != int32(unix.EINVAL) {
		t.Errorf("a length beyond the request: % x", out)
	}
	good := c.request(fuse.Getattr, share, newBody().zero(16))
	for room := 1; room < fuse.OutHeaderSize; room++ {
		if out := c.raw(good, room); len(out) != 0 {
			t.Errorf("%d bytes in a room of %d", len(out), room)
		}
	}
	if out := c.raw(good, fuse.OutHeaderSize+10); len(out) != fuse.OutHeaderSize || le32(out[4:]) == 0 {
		t.Errorf("too little room for attributes: % x", out)
	}
	if out := c.raw(good[:20], 4096); len(out) != 0 {
		t.Errorf("half a header: % x", out)
	}
	c.forget(share, 1<<63)
	c.forget(share, 1)
	c.forget(fuse.RootID, 1<<63)
	c.forget(424242, 1)
	c.getattr(fuse.RootID)
	c.fails(unix.ESTALE, fuse.Getattr, share, newBody().zero(16))
	if got := c.read(e.node, fh, 0, 1); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestOtherFileSystemsAreSubmountsOrHaveOtherNumbers(t *testing.T) {
	dir, other := t.TempDir(), "/dev/shm"
	var a, b unix.Stat_t
	if unix.Stat(dir, &a) != nil || unix.Stat(other, &b) != nil || a.Dev == b.Dev {
		t.Skip("needs two file systems")
	}
	shm, err := os.CreateTemp(other, "husk")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.Remove(shm.Name()); _ = shm.Close() }()
	c, _ := shareOf(t, dir, passthrough.Options{})
	for name, path := range map[string]string{"d": other, "f": shm.Name(), "g": put(t, filepath.Join(dir, "g"), "")} {
		if err := c.dev.AddShare(name, openPath(t, path), true); err != nil {
			t.Fatal(err)
		}
	}
	if e := c.lookup(fuse.RootID, "d"); e.flags&fuse.AttrSubmount == 0 || e.ino != b.Ino || e.nameValid != 0 || e.attrValid != 1 {
		t.Errorf("directory: %+v", e)
	}
	f, g := c.lookup(fuse.RootID, "f"), c.lookup(fuse.RootID, "g")
	if f.flags|g.flags != 0 || f.ino>>48 == g.ino>>48 {
		t.Errorf("files: inodes %#x, %#x", f.ino, g.ino)
	}
}

func TestAnInlineShareIsNoSubmount(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "")
	c, share := shareOf(t, dir, passthrough.Options{Inline: true})
	d, f := c.lookup(fuse.RootID, "share"), c.lookup(share, "f")
	if d.flags|f.flags != 0 || d.ino>>48 == 0 || d.ino>>48 != f.ino>>48 {
		t.Errorf("directory: %+v, file: %+v", d, f)
	}
}

// A root is no submount, for the sake of ACLs, and yet has the host's inode numbers.
func TestARootIsNoSubmount(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "")
	var d, f unix.Stat_t
	if unix.Stat(dir, &d) != nil || unix.Stat(filepath.Join(dir, "f"), &f) != nil {
		t.Fatal("stat")
	}
	c, share := shareOf(t, dir, passthrough.Options{Root: true})
	if e := c.lookup(fuse.RootID, "share"); e.flags != 0 || e.ino != d.Ino {
		t.Errorf("directory: %+v, want inode %d", e, d.Ino)
	}
	if e := c.lookup(share, "f"); e.flags != 0 || e.ino != f.Ino {
		t.Errorf("file: %+v, want inode %d", e, f.Ino)
	}
}
