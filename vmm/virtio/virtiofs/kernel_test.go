package virtiofs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/virtiofs/passthrough"
)

// mount lets the kernel of this machine be the client, through /dev/fuse: real requests in real order. It returns the
// directory behind and the directory in front.
func mount(t *testing.T, readOnly bool) (host, guest string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no /dev/fuse: %v", err)
	}
	host, front := publicDir(t), publicDir(t)
	files, err := passthrough.New()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.OpenFile(host, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.AddShare("share", dir, readOnly); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", dev)
	if err := unix.Mount("husk", front, "fuse", unix.MS_NODEV, options); err != nil {
		_ = unix.Close(dev)
		t.Skipf("cannot mount fuse here: %v", err)
	}
	server := newServer(files)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			in, out := make([]byte, maxWrite+4096), make([]byte, maxWrite+4096)
			for {
				n, err := unix.Read(dev, in)
				if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
					continue
				}
				if err != nil {
					return // ENODEV: unmounted
				}
				if n, _ = server.HandleRequest([][]byte{in[:n]}, [][]byte{out}); n > 0 {
					_, _ = unix.Write(dev, out[:n])
				}
			}
		})
	}
	t.Cleanup(func() {
		if err := unix.Unmount(front, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		wg.Wait()
		_ = unix.Close(dev)
		if err := files.Close(); err != nil {
			t.Error(err)
		}
	})
	return host, filepath.Join(front, "share")
}

// publicDir is a temporary directory that other users can get to.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "virtiofs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// deeds are what programs do to files. Each answers with what it saw; the same on the host and through the device.
var deeds = []struct {
	name string
	do   func(dir string) (string, error)
}{
	{"write, append, truncate, read", func(dir string) (string, error) {
		name := dir + "/f"
		if err := os.WriteFile(name, []byte("hello"), 0o640); err != nil {
			return "", err
		}
		f, err := os.OpenFile(name, os.O_APPEND|os.O_RDWR, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		fmt.Fprint(f, " world")
		if err := f.Truncate(8); err != nil {
			return "", err
		}
		fmt.Fprint(f, "!")
		b, err := os.ReadFile(name)
		st, err2 := os.Stat(name)
		return fmt.Sprintf("%s %v %d", b, st.Mode(), st.Size()), errors.Join(err, err2)
	}},
	{"create exclusively", func(dir string) (string, error) {
		if err := os.WriteFile(dir+"/x", nil, 0o600); err != nil {
			return "", err
		}
		_, err := os.OpenFile(dir+"/x", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		return fmt.Sprint(errors.Is(err, os.ErrExist)), nil
	}},
	{"unlink while open", func(dir string) (string, error) {
		f, err := os.Create(dir + "/u")
		if err != nil {
			return "", err
		}
		defer f.Close()
		if err := os.Remove(dir + "/u"); err != nil {
			return "", err
		}
		fmt.Fprint(f, "still here")
		b := make([]byte, 20)
		n, _ := f.ReadAt(b, 0)
		st, err := f.Stat()
		return fmt.Sprintf("%s %d", b[:n], st.Sys().(*syscall.Stat_t).Nlink), err
	}},
	{"hard links are one inode", func(dir string) (string, error) {
		if err := os.WriteFile(dir+"/a", []byte("1"), 0o644); err != nil {
			return "", err
		}
		if err := os.Link(dir+"/a", dir+"/b"); err != nil {
			return "", err
		}
		a, err := os.Stat(dir + "/a")
		b, err2 := os.Stat(dir + "/b")
		return fmt.Sprint(os.SameFile(a, b), a.Sys().(*syscall.Stat_t).Nlink), errors.Join(err, err2)
	}},
	{"symbolic links", func(dir string) (string, error) {
		if err := os.Symlink("nowhere/at/all", dir+"/l"); err != nil {
			return "", err
		}
		to, err := os.Readlink(dir + "/l")
		_, gone := os.Stat(dir + "/l")
		times := []unix.Timespec{{Sec: 5}, {Sec: 6}}
		err2 := unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/l", times, unix.AT_SYMLINK_NOFOLLOW)
		st, err3 := os.Lstat(dir + "/l")
		return fmt.Sprint(to, errors.Is(gone, os.ErrNotExist), st.ModTime().Unix()), errors.Join(err, err2, err3)
	}},
	{"rename: over, no replace, exchange, whiteout", func(dir string) (string, error) {
		for _, n := range []string{"1", "2", "3"} {
			if err := os.WriteFile(dir+"/"+n, []byte(n), 0o644); err != nil {
				return "", err
			}
		}
		over := os.Rename(dir+"/1", dir+"/2")
		kept := unix.Renameat2(-1, dir+"/2", -1, dir+"/3", unix.RENAME_NOREPLACE)
		swap := unix.Renameat2(-1, dir+"/2", -1, dir+"/3", unix.RENAME_EXCHANGE)
		two, _ := os.ReadFile(dir + "/2")
		three, _ := os.ReadFile(dir + "/3")
		return fmt.Sprint(over, kept, swap, string(two), string(three)), nil
	}},
	{"rename a directory into its child", func(dir string) (string, error) {
		if err := os.MkdirAll(dir+"/d/e", 0o755); err != nil {
			return "", err
		}
		return fmt.Sprint(errors.Is(os.Rename(dir+"/d", dir+"/d/e/f"), unix.EINVAL)), nil
	}},
	{"modes, set-id bits and owners", func(dir string) (string, error) {
		f, err := os.OpenFile(dir+"/m", os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return "", err
		}
		_ = f.Close()
		if err := errors.Join(unix.Chmod(dir+"/m", 0o6755), os.Mkdir(dir+"/g", 0o755), os.Chown(dir+"/g", 0, 1234), unix.Chmod(dir+"/g", 0o2775)); err != nil {
			return "", err
		}
		if err := errors.Join(os.WriteFile(dir+"/g/f", nil, 0o644), os.Mkdir(dir+"/g/d", 0o755)); err != nil {
			return "", err
		}
		out := ""
		for _, n := range []string{"m", "g", "g/f", "g/d"} {
			var st unix.Stat_t
			if err := unix.Lstat(dir+"/"+n, &st); err != nil {
				return "", err
			}
			out += fmt.Sprintf("%o %d:%d ", st.Mode, st.Uid, st.Gid)
		}
		if err := os.Chown(dir+"/m", 7, 8); err != nil {
			return "", err
		}
		var st unix.Stat_t
		err = unix.Lstat(dir+"/m", &st)
		return out + fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid), err
	}},
	{"another user's files", func(dir string) (string, error) {
		if err := os.Chmod(dir, 0o777); err != nil {
			return "", err
		}
		cmd := exec.Command("sh", "-c", "umask 027; cd "+dir+" && echo mine > own && mkdir dir && ln -s x link && mkfifo fifo && stat -c '%n %a %u %g' own dir link fifo; cat /etc/shadow 2>/dev/null; rm own && echo gone")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}},
	{"files without a name", func(dir string) (string, error) {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
		if err != nil {
			return "", err
		}
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		fmt.Fprint(f, "named later")
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/t", unix.AT_SYMLINK_FOLLOW); err != nil {
			return "", err
		}
		b, err := os.ReadFile(dir + "/t")
		return string(b), err
	}},
	{"holes, fallocate and copy_file_range", func(dir string) (string, error) {
		f, err := os.Create(dir + "/h")
		if err != nil {
			return "", err
		}
		defer f.Close()
		_, _ = f.WriteAt(bytes.Repeat([]byte{1}, 8192), 1<<20)
		hole := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 4096)
		data, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
		g, err2 := os.Create(dir + "/h2")
		if err := errors.Join(err, err2); err != nil {
			return "", err
		}
		defer g.Close()
		n, err := io.Copy(g, f)
		st, err2 := f.Stat()
		return fmt.Sprint(hole, data, st.Size(), n > 0), errors.Join(err, err2)
	}},
	{"extended attributes, trusted ones as well", func(dir string) (string, error) {
		if err := os.WriteFile(dir+"/e", nil, 0o644); err != nil {
			return "", err
		}
		out := ""
		for _, name := range []string{"user.one", "trusted.two"} {
			if err := unix.Setxattr(dir+"/e", name, []byte("value of "+name), 0); err != nil {
				return "", fmt.Errorf("%s: %w", name, err)
			}
			buf := make([]byte, 100)
			n, err := unix.Getxattr(dir+"/e", name, buf)
			if err != nil {
				return "", fmt.Errorf("%s: %w", name, err)
			}
			out += string(buf[:n]) + " "
		}
		buf := make([]byte, 1000)
		n, err := unix.Listxattr(dir+"/e", buf)
		if err != nil {
			return "", err
		}
		names := strings.Split(strings.Trim(string(buf[:n]), "\x00"), "\x00")
		sort.Strings(names)
		gone := unix.Removexattr(dir+"/e", "user.one")
		_, again := unix.Getxattr(dir+"/e", "user.one", buf)
		return fmt.Sprint(out, names, gone, again), nil
	}},
	{"locks", func(dir string) (string, error) {
		f, err := os.Create(dir + "/k")
		if err != nil {
			return "", err
		}
		defer f.Close()
		g, err := os.OpenFile(dir+"/k", os.O_RDWR, 0)
		if err != nil {
			return "", err
		}
		defer g.Close()
		return fmt.Sprint(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.Flock(int(g.Fd()), unix.LOCK_EX|unix.LOCK_NB)), nil
	}},
	{"memory maps", func(dir string) (string, error) {
		f, err := os.Create(dir + "/p")
		if err != nil {
			return "", err
		}
		defer f.Close()
		if err := f.Truncate(8192); err != nil {
			return "", err
		}
		b, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return "", err
		}
		copy(b[4090:], "across pages")
		if err := errors.Join(unix.Msync(b, unix.MS_SYNC), unix.Munmap(b)); err != nil {
			return "", err
		}
		got, err := os.ReadFile(dir + "/p")
		return string(got[4090:4102]), err
	}},
	{"a directory of thousands, read while it changes", func(dir string) (string, error) {
		for i := range 3000 {
			if err := os.WriteFile(fmt.Sprintf("%s/some-file-name-%04d", dir, i), nil, 0o600); err != nil {
				return "", err
			}
		}
		names, err := os.ReadDir(dir)
		if err != nil {
			return "", err
		}
		for _, n := range names {
			if err := os.Remove(dir + "/" + n.Name()); err != nil {
				return "", err
			}
		}
		left, err := os.ReadDir(dir)
		return fmt.Sprint(len(names), len(left)), err
	}},
	{"forty megabytes", func(dir string) (string, error) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 40<<16)
		if err := os.WriteFile(dir+"/big", data, 0o600); err != nil {
			return "", err
		}
		got, err := os.ReadFile(dir + "/big")
		return fmt.Sprintf("%x", sha256.Sum256(got)), err
	}},
	{"tar there and back", func(dir string) (string, error) {
		out, err := exec.Command("sh", "-c", "cd "+dir+" && mkdir src && cp -a /usr/share/zoneinfo src/ 2>/dev/null; tar cf - src | (mkdir dst && cd dst && tar xf -) && diff -r src dst/src && echo same && rm -r src dst").CombinedOutput()
		return string(out), err
	}},
	{"special files", func(dir string) (string, error) {
		fifo := unix.Mkfifo(dir+"/fifo", 0o600)
		whiteout := unix.Mknod(dir+"/wh", unix.S_IFCHR, 0)
		return fmt.Sprint(fifo, whiteout), nil
	}},
}

func TestFilesBehaveAsOnTheHost(t *testing.T) {
	_, guest := mount(t, false)
	for _, d := range deeds {
		t.Run(d.name, func(t *testing.T) {
			want, err := d.do(publicDir(t))
			if err != nil {
				t.Skipf("the host itself cannot do it: %v", err)
			}
			dir, err := os.MkdirTemp(guest, "deed")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			got, err := d.do(dir)
			if err != nil || got != want {
				t.Errorf("got %q, %v; the host gives %q", got, err, want)
			}
		})
	}
}

func TestOverlayOnTheShare(t *testing.T) {
	_, guest := mount(t, false)
	for _, d := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(guest+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(guest+"/lower/f", []byte("below"), 0o644); err != nil {
		t.Fatal(err)
	}
	merged := t.TempDir()
	err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", guest))
	if errors.Is(err, unix.ENODEV) {
		t.Skip("no overlay here")
	} else if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(merged, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(merged+"/f", []byte("above"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(merged + "/f"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(merged + "/f"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the removal: %v", err)
	}
}

func TestReadOnlyShareRefusesEveryChange(t *testing.T) {
	host, guest := mount(t, true)
	if err := os.WriteFile(host+"/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"write":    os.WriteFile(guest+"/f", nil, 0o644),
		"create":   os.WriteFile(guest+"/g", nil, 0o644),
		"mkdir":    os.Mkdir(guest+"/d", 0o755),
		"remove":   os.Remove(guest + "/f"),
		"rename":   os.Rename(guest+"/f", guest+"/g"),
		"link":     os.Link(guest+"/f", guest+"/g"),
		"symlink":  os.Symlink("f", guest+"/g"),
		"chmod":    os.Chmod(guest+"/f", 0o600),
		"chown":    os.Chown(guest+"/f", 1, 1),
		"truncate": os.Truncate(guest+"/f", 0),
		"xattr":    unix.Setxattr(guest+"/f", "user.x", nil, 0),
		"mkfifo":   unix.Mkfifo(guest+"/p", 0o600),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(guest + "/f"); err != nil || string(b) != "x" {
		t.Errorf("read: %q, %v", b, err)
	}
}

// Thousands of files come and go, and their descriptors with them.
func TestDescriptorsDoNotLeak(t *testing.T) {
	_, guest := mount(t, false)
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := count()
	for i := range 2000 {
		name := fmt.Sprintf("%s/%d", guest, i)
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	// Forgets are sent when the kernel gets round to it.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		t.Log(err)
	}
	if after := count(); after > before+200 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
