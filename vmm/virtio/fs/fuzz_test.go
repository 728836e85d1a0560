package fs

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
	"github.com/huskvm/husk/vmm/virtio/fs/passthrough"
)

// sequence joins requests as FuzzRequest takes them apart: each has its length and the room for its reply before it.
func sequence(requests ...[]byte) (all []byte) {
	for _, r := range requests {
		all = binary.LittleEndian.AppendUint16(all, uint16(len(r)))
		all = binary.LittleEndian.AppendUint16(all, 4096)
		all = append(all, r...)
	}
	return all
}

// seeds are sequences of what guests send. Node and handle ids are the session's first ones.
func seeds() [][]byte {
	var c client
	const share, file, fh = 2, 3, 4
	find := c.request(fuse.Lookup, fuse.RootID, newBody().str("share"))
	create := c.request(fuse.Create, share, newBody().u32(unix.O_RDWR, 0o100644, 0o22, 0).str("f"))
	one := func(op fuse.Opcode, node uint64, b *body) []byte {
		return sequence(find, create, c.request(op, node, b))
	}
	return [][]byte{
		sequence(c.request(fuse.Init, 0, newBody().u32(7, 40, 1<<17, ^uint32(0), ^uint32(0)).zero(44)), find, find),
		sequence(find, create, c.request(fuse.Write, file, newBody().u64(fh, 0).u32(5, 7).u64(0).u32(0, 0).data([]byte("hello"))),
			c.request(fuse.Read, file, newBody().u64(fh, 0).u32(100, 0).u64(0).u32(0, 0)),
			c.request(fuse.Flush, file, newBody().u64(fh, 0, 0)), c.request(fuse.Release, file, newBody().u64(fh, 0, 0)),
			c.request(fuse.Forget, file, newBody().u64(1)), c.request(fuse.Getattr, file, newBody().zero(16))),
		sequence(find, c.request(fuse.Symlink, share, newBody().str("s", "../out")), c.request(fuse.Lookup, share, newBody().str("s")),
			c.request(fuse.Readlink, 3, nil), c.request(fuse.Lookup, 3, newBody().str("secret")), c.request(fuse.Open, 3, newBody().u32(2, 0))),
		sequence(find, c.request(fuse.Mkdir, share, newBody().u32(0o755, 0).str("d")), c.request(fuse.Rename2, share, newBody().u64(3).u32(0, 0).str("d", "e")),
			c.request(fuse.Rename, share, newBody().u64(share).str("d", "e")), c.request(fuse.Rmdir, share, newBody().str("e"))),
		sequence(find, c.request(fuse.Opendir, share, newBody().u32(0, 0)), c.request(fuse.Readdir, share, newBody().u64(3, 0).u32(4096, 0).zero(16)),
			c.request(fuse.Readdirplus, share, newBody().u64(3, 0).u32(4096, 0).zero(16)), c.request(fuse.Releasedir, share, newBody().u64(3, 0, 0))),
		sequence(c.request(fuse.Opendir, 1, newBody().u32(0, 0)), c.request(fuse.Readdirplus, 1, newBody().u64(2, 0).u32(4096, 0).zero(16))),
		sequence(find, c.request(fuse.Setxattr, share, newBody().u32(3, 0, 0, 0).str("trusted.x").data([]byte("abc"))),
			c.request(fuse.Getxattr, share, newBody().u32(100, 0).str("trusted.x")), c.request(fuse.Listxattr, share, newBody().u32(100, 0)),
			c.request(fuse.Removexattr, share, newBody().str("trusted.x"))),
		one(fuse.Setattr, file, newBody().u32(0xfff, 0).u64(fh, 10, 0, 1, 2, 3).u32(0, 0, 0, 0o6755, 0, 1, 2, 0)),
		one(fuse.Link, share, newBody().u64(file).str("l")),
		one(fuse.Mknod, share, newBody().u32(unix.S_IFCHR, 0, 0, 0).str("w")),
		one(fuse.Tmpfile, share, newBody().u32(unix.O_RDWR, 0o600, 0, 0).str("/")),
		one(fuse.Fallocate, file, newBody().u64(fh, 0, 4096).u32(0, 0)),
		one(fuse.Lseek, file, newBody().u64(fh, 0).u32(unix.SEEK_HOLE, 0)),
		one(fuse.CopyFileRange, file, newBody().u64(fh, 0, file, fh, 4096, 100, 0)),
		one(fuse.Statx, file, newBody().zero(24)),
		one(fuse.Statfs, file, nil), one(fuse.Access, file, newBody().u32(7, 0)), one(fuse.Ioctl, file, newBody().zero(32)),
		one(fuse.BatchForget, 0, newBody().u32(2, 0).u64(share, 1, file, 5)),
		one(fuse.Unlink, share, newBody().str("..")), one(fuse.Lookup, share, newBody().str("../out/secret")),
		one(fuse.Fsync, file, newBody().u64(fh).u32(1, 0)), one(fuse.Destroy, 0, nil), one(fuse.Interrupt, 0, newBody().u64(1)),
	}
}

// FuzzRequest takes data for a sequence of requests of a guest. Whatever they are, nothing panics, nothing outside
// of the share changes, and nothing stays open.
func FuzzRequest(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	var limited sync.Once
	f.Fuzz(func(t *testing.T, data []byte) {
		limited.Do(func() { limitFileSize(t) })
		top := t.TempDir()
		dir, outside := filepath.Join(top, "in"), filepath.Join(top, "out")
		for _, d := range []string{dir, outside} {
			if err := os.Mkdir(d, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		put(t, filepath.Join(outside, "secret"), "secret")
		before := tree(t, top)
		server, err := passthrough.New()
		if err != nil {
			t.Fatal(err)
		}
		d, err := os.OpenFile(dir, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := server.AddShare("share", d, passthrough.Options{}); err != nil {
			t.Fatal(err)
		}
		files := openFiles(t)
		var c client
		send := func(request []byte, room uint16) {
			r := &bytesRequest{in: request, out: make([]byte, room)}
			server.Handle(r)
			if r.written == 0 {
				return
			}
			// An INIT of either byte order may come at any time, and the rest follows it.
			if n := uint32(r.written); n < fuse.OutHeaderSize || (le32(r.out) != n && binary.BigEndian.Uint32(r.out) != n) {
				t.Fatalf("a reply of %d bytes begins with % x", n, r.out[:4])
			}
		}
		send(c.request(fuse.Init, 0, newBody().u32(7, 40, 1<<17, ^uint32(0), 0).zero(44)), 4096)
		for len(data) >= 4 {
			n, room := int(binary.LittleEndian.Uint16(data)), binary.LittleEndian.Uint16(data[2:])
			data = data[4:]
			n = min(n, len(data))
			send(tame(append([]byte(nil), data[:n]...)), room)
			data = data[n:]
		}
		server.Reset()
		if after := openFiles(t); after != files {
			t.Errorf("%d descriptors before, %d after", files, after)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if after := tree(t, top); after != before {
			t.Errorf("outside of the share:\n%s\nwas\n%s", after, before)
		}
	})
}

// limitFileSize keeps files small: a guest may fill its share, a fuzzer not our disk.
func limitFileSize(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ)
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &lim); err != nil {
		t.Fatal(err)
	}
	lim.Cur = min(lim.Cur, 1<<24)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &lim); err != nil {
		t.Fatal(err)
	}
}

// tame keeps allocations, which no limit covers, small, and spares us syncing the disk.
func tame(r []byte) []byte {
	if len(r) < fuse.InHeaderSize {
		return r
	}
	switch op := fuse.Opcode(le32(r[4:])); {
	case op == fuse.Fallocate && len(r) >= fuse.InHeaderSize+24:
		length := r[fuse.InHeaderSize+16:]
		binary.LittleEndian.PutUint64(length, binary.LittleEndian.Uint64(length)&0xfffff)
	case op == fuse.Syncfs || op == fuse.Fsync || op == fuse.Fsyncdir:
		binary.LittleEndian.PutUint32(r[4:], uint32(fuse.Flush))
	}
	return r
}

// tree describes all below top but what is in the share.
func tree(t *testing.T, top string) (s string) {
	t.Helper()
	err := filepath.Walk(top, func(path string, info os.FileInfo, err error) error {
		switch {
		case err != nil:
			return err
		case path == filepath.Join(top, "in"):
			return filepath.SkipDir
		case path == top:
			return nil
		}
		s += fmt.Sprintln(path, info.Mode(), info.Size(), info.ModTime())
		if info.Mode().IsRegular() {
			s += get(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
