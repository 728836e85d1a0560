package fs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/passthrough"
)

// These tests let the kernel of this machine be the client: it sends what real programs make it send, and
// believes what it is told.

// mounted shares a directory and mounts it through /dev/fuse, in a mount namespace of the calling goroutine's
// own, which ends with the test. It returns the directory on both sides.
func mounted(t *testing.T, opt passthrough.Options) (host, guest string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	fuseFD, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE on this machine: %v", err)
	}
	top := t.TempDir()
	for dir := top; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // others than root are to get there
			t.Fatal(err)
		}
	}
	host, mnt := filepath.Join(top, "host"), filepath.Join(top, "mnt")
	for _, dir := range []string{host, mnt} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dev := newDevice(t, host, opt)

	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("no mount namespace: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", fuseFD)
	if err := unix.Mount("husk", mnt, "fuse", 0, options); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { pump(dev, fuseFD) })
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
		// The last one to leave lets the requests end.
		wg.Wait()
		_ = unix.Close(fuseFD)
	})
	guest = filepath.Join(mnt, "share")
	put(t, host+"/.polled", "")
	child(t, "Polled", guest)
	if err := os.Remove(host + "/.polled"); err != nil {
		t.Fatal(err)
	}
	return host, guest
}

// pump hands requests of the kernel to the device until the file system is unmounted.
func pump(dev *Device, fd int) {
	in, out := make([]byte, 1<<20+8192), make([]byte, 1<<20+8192)
	for {
		n, err := unix.Read(fd, in)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINTR):
			continue // an interrupted request
		case err != nil:
			return
		}
		r := &bytesRequest{in: in[:n], out: out}
		dev.server.Handle(r)
		if r.written > 0 {
			_, _ = unix.Write(fd, out[:r.written]) // ENOENT: nobody waits any more
		}
	}
}

// sh runs a script in dir, and returns what it printed. The shell goes there by itself: if the child of this
// process did between fork and exec, while the collector of garbage waits for all threads, nobody would answer.
func sh(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euc", "cd \"$1\"\n"+script, "bash", dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\nin %s: %v\n%s", script, dir, err, out)
	}
	return string(out)
}

// needs skips a test whose programs aren't there.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("no %s on this machine", p)
		}
	}
}

// TestKernelScriptsDoTheSameAsOnTheHost runs scripts on a share and on the file system below it.
func TestKernelScriptsDoTheSameAsOnTheHost(t *testing.T) {
	needs(t, "bash", "find", "tar")
	_, guest := mounted(t, passthrough.Options{})
	native := t.TempDir()
	if err := os.Chmod(native, 0o755); err != nil {
		t.Fatal(err)
	}
	const show = `
		find . | sort | while read -r f; do stat -c '%n %F %a %u:%g %h' "$f"; done
		find . -type f | sort | xargs -r sha256sum; find . -type l -printf '%p -> %l\n' | sort`
	for name, script := range map[string]string{
		"files":    `umask 027; mkdir -p a/b/c; for i in $(seq 50); do echo $i > a/b/$i; done; mv a/b a/d; rm a/d/1*; cp -r a e; ln a/d/2 hard; ln -s a/d soft; cat soft/2 hard; rmdir a/d/c; ! rmdir a/d 2>/dev/null`,
		"modes":    `umask 0; touch f; chmod 4755 f; chown 1:2 f; mkdir s; chgrp 5 s; chmod 2775 s; touch s/f; mkdir s/d; mkfifo p; mknod w c 0 0; chmod 0 f; truncate -s 100 f; touch -d @100 f; stat -c %Y f`,
		"appends":  `for i in $(seq 100); do echo line $i >> log; done; sed -i 's/line/LINE/' log; tail -c 20 log; dd if=/dev/zero of=sparse bs=1 count=1 seek=1000000 2>/dev/null; truncate -s 10 log; cat log; wc -c sparse`,
		"big":      `head -c 5000000 /dev/zero | tr '\0' x > big; dd if=big of=copy bs=64k conv=fsync 2>/dev/null; cp --sparse=always big b2; cmp big copy; cat big copy > two; dd if=big of=direct bs=1M oflag=direct 2>/dev/null; cmp big direct; fallocate -p -o 4096 -l 8192 two; fallocate -l 100000 three`,
		"archives": `mkdir t; for i in $(seq 200); do mkdir -p t/$((i % 7)); echo $i > t/$((i % 7))/$i; done; ln t/1/1 t/h; ln -s /nonexistent t/s; tar cf a.tar t; mkdir x; tar xpf a.tar -C x; diff -r --no-dereference t x/t; rm a.tar; rm -r t`,
		"unlinked": `exec 3<>f; echo one >&3; rm f; echo two >&3; cat /proc/self/fd/3; exec 3>&-; mkdir d; cd d; rmdir ../d; ! touch x 2>/dev/null`,
		"user":     `chmod 777 .; setpriv --reuid 1000 --regid 1000 --clear-groups bash -euc 'umask 022; echo mine > u; mkdir ud; ln -s u us; mkfifo up; ! touch /root/x 2>/dev/null'; cp /bin/true suid; chmod 6777 suid; setpriv --reuid 1000 --regid 1000 --clear-groups bash -c 'echo x >> suid'; chmod 600 u; ! setpriv --reuid 1001 --regid 1000 --clear-groups cat u 2>/dev/null; chmod 755 .`,
		"groups":   `chmod 755 .; mkdir g; chgrp 42 g; chmod 2770 g; setpriv --reuid 1000 --regid 1000 --groups 42 bash -euc 'echo x > g/f; mkdir g/d'; ! setpriv --reuid 1000 --regid 1000 --clear-groups ls g 2>/dev/null`,
	} {
		var out [2]string
		for i, top := range []string{native, guest} {
			dir := filepath.Join(top, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			out[i] = sh(t, dir, script+"\n"+show)
		}
		if out[0] != out[1] {
			t.Errorf("%s: on the host\n%s\non the share\n%s", name, out[0], out[1])
		}
	}
}

func TestKernelRunsGit(t *testing.T) {
	needs(t, "git")
	_, guest := mounted(t, passthrough.Options{})
	out := sh(t, guest, `
		git init -q r; cd r; git config user.email a@b; git config user.name c
		for i in $(seq 60); do echo $i > f$i; git add f$i; done; git commit -qm one
		git checkout -qb side; git mv f1 g1; sed -i s/2/two/ f2; git commit -qam two
		git checkout -q -; echo x > f3; git commit -qam three; git merge -q side -m merge
		git gc -q; git fsck --full --strict; git clone -q . ../c; cd ../c; git status --short; git log --oneline | wc -l; cat f2 f3 g1`)
	if out != "4\ntwo\nx\n1\n" {
		t.Errorf("git: %q", out)
	}
}

func TestKernelRunsSQLite(t *testing.T) {
	needs(t, "sqlite3")
	_, guest := mounted(t, passthrough.Options{})
	out := sh(t, guest, `
		sqlite3 -cmd 'pragma journal_mode=wal' db 'create table t(x)' >/dev/null
		for p in 1 2 3 4; do (for i in $(seq 25); do sqlite3 -cmd '.timeout 20000' db "insert into t values($p$i)"; done) & done; wait
		sqlite3 db 'select count(*) from t; pragma integrity_check'
		sqlite3 db 'pragma journal_mode=delete; begin; delete from t; rollback; select count(*) from t'`)
	if out != "100\nok\ndelete\n100\n" {
		t.Errorf("sqlite: %q", out)
	}
}

func TestKernelMountsOverlayOnAShare(t *testing.T) {
	_, guest := mounted(t, passthrough.Options{})
	for _, layer := range []string{"share", "elsewhere"} {
		dir := filepath.Join(guest, layer)
		lower := filepath.Join(dir, "lower")
		if layer == "elsewhere" {
			lower = t.TempDir()
		}
		sh(t, guest, fmt.Sprintf(`
			mkdir -p %[1]s/{upper,work,merged} %[2]s/{d,gone,moved}; echo l > %[2]s/f; echo l > %[2]s/d/f; echo l > %[2]s/moved/f; ln -s f %[2]s/s
			mount -t overlay overlay -o lowerdir=%[2]s,upperdir=%[1]s/upper,workdir=%[1]s/work %[1]s/merged`, dir, lower))
		merged := filepath.Join(dir, "merged")
		out := sh(t, merged, `
			echo u >> f; rm -r gone d; mkdir d; echo new > d/g; mv moved m2 2>/dev/null || { cp -a moved m2; rm -r moved; }
			chown -h 7 s; touch tmp; mv tmp f2; rm f2; ls; ls d; cat f d/g m2/f
			chmod 4755 f; stat -c %a f; cp /bin/true t; ./t`)
		if want := "d\nf\nm2\ns\ng\nl\nu\nnew\nl\n4755\n"; out != want {
			t.Errorf("overlay, lower layer on %s: %q", layer, out)
		}
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
		out = sh(t, filepath.Join(dir, "upper"), `stat -c '%n %F %t,%T' gone moved; ls`)
		if want := "gone character special file 0,0\nmoved character special file 0,0\nd\nf\ngone\nm2\nmoved\ns\nt\n"; out != want {
			t.Errorf("upper layer: %q", out)
		}
	}
}

func TestKernelSeesWhatTheHostChanges(t *testing.T) {
	host, guest := mounted(t, passthrough.Options{Validity: 20 * time.Millisecond})
	path := filepath.Join(guest, "f")
	within := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the guest never saw: %s", what)
			}
		}
	}
	reads := func(want string) func() bool {
		return func() bool { b, _ := os.ReadFile(path); return string(b) == want }
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two", "longer", "", "again"} { // the same size, and others
		put(t, filepath.Join(host, "f"), text)
		within("content "+text, reads(text))
	}
	// As the kubelet updates a volume.
	sh(t, host, `mkdir v1 v2; echo 1 > v1/k; echo 2 > v2/k; ln -s v1 ..data; ln -s ..data/k k`)
	path = filepath.Join(guest, "k")
	within("first version", reads("1\n"))
	sh(t, host, `ln -s v2 ..tmp; mv -T ..tmp ..data`)
	within("second version", reads("2\n"))
	if err := os.Remove(filepath.Join(host, "k")); err != nil {
		t.Fatal(err)
	}
	within("removal", func() bool { _, err := os.Stat(path); return os.IsNotExist(err) })
}

// What the guest's kernel takes for missing, and so lets anyone create, may be another's by now. It believes that a
// CREATE that succeeds has created, and checks no permission of what it gets.
func TestKernelCreateDoesNotOpenWhatOthersMayNot(t *testing.T) {
	needs(t, "bash")
	host, guest := mounted(t, passthrough.Options{Validity: time.Hour})
	if err := os.Chmod(host, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(guest + "/secret"); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	put(t, host+"/secret", "classified\n")
	if err := os.Chmod(host+"/secret", 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", `cd "$1" && : > own && read -r line <> secret; echo "$line"`, "bash", guest)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "Permission denied") || strings.Contains(string(out), "classified") {
		t.Errorf("another user's create of a private file: %v, %s", err, out)
	}
	if _, err := os.Stat(host + "/own"); err != nil {
		t.Error(err)
	}
	if f, err := os.OpenFile(guest+"/secret", os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		t.Errorf("the owner's: %v", err)
	} else {
		_ = f.Close()
	}
}

func TestKernelCallsProgramsRarelyMake(t *testing.T) {
	host, guest := mounted(t, passthrough.Options{})
	fd, err := unix.Open(guest, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte("unnamed")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.AT_FDCWD, guest+"/tmp", unix.AT_SYMLINK_FOLLOW); err != nil {
		t.Errorf("link of an unnamed file: %v", err)
	}
	_ = unix.Close(fd)
	if got := get(t, host+"/tmp"); got != "unnamed" {
		t.Errorf("%q", got)
	}

	put(t, guest+"/a", "A")
	put(t, guest+"/b", "B")
	for flags, want := range map[uint]error{unix.RENAME_NOREPLACE: unix.EEXIST, unix.RENAME_EXCHANGE: nil} {
		if err := unix.Renameat2(unix.AT_FDCWD, guest+"/a", unix.AT_FDCWD, guest+"/b", flags); !errors.Is(err, want) {
			t.Errorf("rename with %#x: %v", flags, err)
		}
	}
	if get(t, guest+"/a") != "B" {
		t.Error("not exchanged")
	}

	put(t, guest+"/map", strings.Repeat("m", 8192))
	child(t, "MappedPagesOfAnAppendingFile", guest)
	if got := get(t, host+"/map"); len(got) != 8192 || got[0] != '<' || got[8191] != '>' {
		t.Errorf("mapped file: %d bytes on the host", len(got))
	}

	for _, name := range []string{"user.x", "trusted.x", "security.x"} {
		if err := unix.Setxattr(guest+"/a", name, []byte("v"), 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	buf := make([]byte, 200)
	n, err := unix.Listxattr(guest+"/a", buf)
	if err != nil || strings.Count(string(buf[:n]), "\x00") != 3 {
		t.Errorf("attributes: %q, %v", buf[:n], err)
	}
	if err := os.Symlink("a", guest+"/s"); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Lgetxattr(guest+"/s", "security.capability", buf); !errors.Is(err, unix.ENODATA) {
		t.Errorf("attribute of a symbolic link: %v", err)
	}

	// A default ACL (user::rwx group::rwx other::---) takes the umask's place.
	acl := []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff")
	if err := os.Mkdir(guest+"/acl", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(guest+"/acl", "system.posix_acl_default", acl, 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("default ACL: %v", err)
	} else if err == nil {
		if got := sh(t, guest+"/acl", `umask 077; touch f; mkdir d; stat -c %a f d`); got != "660\n770\n" {
			t.Errorf("modes under a default ACL: %q", got)
		}
	}

	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, guest+"/a", 0, unix.STATX_BTIME|unix.STATX_SIZE, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		t.Errorf("statx: mask %#x, %v", st.Mask, err)
	}
	var fst unix.Statfs_t
	if err := unix.Statfs(guest, &fst); err != nil || fst.Blocks == 0 || fst.Namelen != 255 {
		t.Errorf("statfs: %+v, %v", fst, err)
	}
	if err := os.WriteFile(guest+"/ro", nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if out := sh(t, guest, `exec 9>lock; flock 9; ! flock -n lock true; flock -u 9; flock -n lock echo free; sync -f .`); out != "free\n" {
		t.Errorf("flock: %q", out)
	}
}

func TestKernelRefusesChangesOfReadOnlyShares(t *testing.T) {
	_, guest := mounted(t, passthrough.Options{ReadOnly: true})
	for what, err := range map[string]error{
		"create": os.WriteFile(guest+"/f", nil, 0o644), "mkdir": os.Mkdir(guest+"/d", 0o755),
		"symlink": os.Symlink("a", guest+"/s"), "chmod": os.Chmod(guest, 0o700), "times": os.Chtimes(guest, time.Now(), time.Now()),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestKernelReadsBackWhatItWrote(t *testing.T) {
	host, guest := mounted(t, passthrough.Options{})
	child(t, "RandomWrites", guest, host)
}
