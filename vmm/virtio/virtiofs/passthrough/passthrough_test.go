package passthrough

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func addShare(t *testing.T, fs *FS, name, path string, readOnly bool) {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.AddShare(name, f, readOnly); err != nil {
		t.Fatal(err)
	}
}

func newFS(t *testing.T) *FS {
	t.Helper()
	fs, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fs.Close() })
	return fs
}

func lookup(t *testing.T, fs *FS, parent uint64, name string) (fuse.EntryOut, fuse.Status) {
	t.Helper()
	var out fuse.EntryOut
	code := fs.Lookup(nil, &fuse.InHeader{NodeId: parent}, name, &out)
	return out, code
}

func TestNamesDoNotLeadOutOfAShare(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "share/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../secret", filepath.Join(dir, "share/link")); err != nil {
		t.Fatal(err)
	}
	fs := newFS(t)
	addShare(t, fs, "share", filepath.Join(dir, "share"), false)
	root, code := lookup(t, fs, fuse.FUSE_ROOT_ID, "share")
	if code != fuse.OK {
		t.Fatal(code)
	}
	for _, name := range []string{"..", ".", "", "../secret", "sub/..", "/etc", "a\x00b"} {
		if _, code := lookup(t, fs, root.NodeId, name); code != fuse.EINVAL {
			t.Errorf("lookup of %q: %v", name, code)
		}
		if code := fs.Unlink(nil, &fuse.InHeader{NodeId: root.NodeId}, name); code != fuse.EINVAL {
			t.Errorf("unlink of %q: %v", name, code)
		}
	}
	link, code := lookup(t, fs, root.NodeId, "link")
	if code != fuse.OK || link.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Fatalf("the link is %o, %v", link.Mode, code)
	}
	var open fuse.OpenOut
	if code := fs.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: link.NodeId}}, &open); code == fuse.OK {
		t.Error("a link was opened")
	}
	if _, code := lookup(t, fs, link.NodeId, "x"); code != fuse.ENOTDIR {
		t.Errorf("lookup through a link: %v", code)
	}
}

// A directory is swapped for a link to a place outside, over and over, while the guest creates in it.
func TestRacingLinksDoNotLeadOut(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	fs := newFS(t)
	if err := os.MkdirAll(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	addShare(t, fs, "share", dir, false)
	root, _ := lookup(t, fs, fuse.FUSE_ROOT_ID, "share")
	if err := os.Symlink(outside, filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(-1, filepath.Join(dir, "d"), -1, filepath.Join(dir, "l"), unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 2000 {
		d, code := lookup(t, fs, root.NodeId, "d")
		if code != fuse.OK {
			continue
		}
		var out fuse.CreateOut
		if fs.Create(nil, &fuse.CreateIn{InHeader: fuse.InHeader{NodeId: d.NodeId}, Flags: unix.O_RDWR, Mode: 0o600}, "file", &out) == fuse.OK {
			fs.release(out.Fh)
		}
		_ = fs.Unlink(nil, &fuse.InHeader{NodeId: d.NodeId}, "file")
	}
	close(stop)
	wg.Wait()
	if names, err := os.ReadDir(outside); err != nil || len(names) > 0 {
		t.Errorf("outside there is %v, %v", names, err)
	}
}

func TestShareOfOneFileExposesNothingElse(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fs := newFS(t)
	addShare(t, fs, "file", filepath.Join(dir, "one"), false)
	f, code := lookup(t, fs, fuse.FUSE_ROOT_ID, "file")
	if code != fuse.OK || f.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Fatalf("mode %o, %v", f.Mode, code)
	}
	if _, code := lookup(t, fs, f.NodeId, "two"); code != fuse.ENOTDIR {
		t.Errorf("lookup in a file: %v", code)
	}
}

func TestReadOnlyAndWritableShareOfOneDirectoryStayApart(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fs := newFS(t)
	addShare(t, fs, "ro", dir, true)
	addShare(t, fs, "rw", dir, false)
	for name, want := range map[string]fuse.Status{"ro": fuse.EROFS, "rw": fuse.OK} {
		root, _ := lookup(t, fs, fuse.FUSE_ROOT_ID, name)
		f, _ := lookup(t, fs, root.NodeId, "f")
		var out fuse.OpenOut
		if code := fs.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: f.NodeId}, Flags: unix.O_RDWR}, &out); code != want {
			t.Errorf("%s: %v, want %v", name, code, want)
		}
	}
	ro, _ := lookup(t, fs, fuse.FUSE_ROOT_ID, "ro")
	rw, _ := lookup(t, fs, fuse.FUSE_ROOT_ID, "rw")
	f, _ := lookup(t, fs, ro.NodeId, "f")
	var out fuse.EntryOut
	if code := fs.Link(nil, &fuse.LinkIn{InHeader: fuse.InHeader{NodeId: rw.NodeId}, Oldnodeid: f.NodeId}, "g", &out); code != fuse.EXDEV {
		t.Errorf("a link from the read-only to the writable share: %v", code)
	}
}

func TestForgetClosesAndMoreIsHarmless(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fs := newFS(t)
	addShare(t, fs, "s", dir, false)
	root, _ := lookup(t, fs, fuse.FUSE_ROOT_ID, "s")
	f, _ := lookup(t, fs, root.NodeId, "f")
	if again, _ := lookup(t, fs, root.NodeId, "f"); again.NodeId != f.NodeId {
		t.Error("two lookups, two inodes")
	}
	fs.Forget(f.NodeId, 1)
	if _, ok := fs.inodes[f.NodeId]; !ok {
		t.Error("gone after one of two")
	}
	fs.Forget(f.NodeId, 1<<63)
	fs.Forget(f.NodeId, 1)
	if _, ok := fs.inodes[f.NodeId]; ok {
		t.Error("still there")
	}
	fs.Forget(root.NodeId, 1<<63)
	if _, code := lookup(t, fs, fuse.FUSE_ROOT_ID, "s"); code != fuse.OK {
		t.Error("a forgotten share is gone")
	}
}

func TestShareComesAndGoesWhileInUse(t *testing.T) {
	fs := newFS(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	addShare(t, fs, "s", dir, false)
	root, _ := lookup(t, fs, fuse.FUSE_ROOT_ID, "s")
	if err := fs.RemoveShare("s"); err != nil {
		t.Fatal(err)
	}
	if _, code := lookup(t, fs, fuse.FUSE_ROOT_ID, "s"); code != fuse.ENOENT {
		t.Errorf("after the removal: %v", code)
	}
	if _, code := lookup(t, fs, root.NodeId, "f"); code != fuse.OK {
		t.Errorf("what was known: %v", code)
	}
	if err := fs.RemoveShare("s"); err == nil {
		t.Error("removed twice")
	}
}
