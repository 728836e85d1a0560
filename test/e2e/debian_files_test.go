package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// motley is a tar of several thousand files of all kinds, modes, owners and times, with hard links between them.
func motley(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	modes := []int64{0o644, 0o600, 0o400, 0o755, 0o4755, 0o2755, 0o6711, 0o000, 0o1644}
	add := func(h tar.Header, content string) {
		h.Format, h.Size = tar.FormatPAX, int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for d := range 30 {
		dir := fmt.Sprintf("d%d/", d)
		at := func(i int) time.Time { return time.Unix(int64(d*1_000_000+i), int64(i*1_234_567)) }
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: []int64{0o755, 0o1777, 0o2750, 0o500}[d%4], Uid: d, Gid: 2 * d, ModTime: at(0)}, "")
		for i := range 50 {
			name := fmt.Sprint(dir, "f", i)
			add(tar.Header{
				Typeflag: tar.TypeReg, Name: name, Mode: modes[(d+i)%len(modes)], Uid: 1000 + i, Gid: 70000 + d, ModTime: at(i),
				PAXRecords: map[string]string{"SCHILY.xattr.user.number": fmt.Sprint(i)},
			}, strings.Repeat(name, i*i))
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprint(dir, "s", i), Linkname: fmt.Sprint("f", i), Mode: 0o777, Uid: i, ModTime: at(i + 1)}, "")
			if i%5 == 0 {
				add(tar.Header{Typeflag: tar.TypeLink, Name: fmt.Sprint(dir, "h", i), Linkname: name, Mode: modes[(d+i)%len(modes)], Uid: 1000 + i, Gid: 70000 + d, ModTime: at(i)}, "")
			}
		}
		add(tar.Header{Typeflag: tar.TypeFifo, Name: dir + "fifo", Mode: 0o620, ModTime: at(7)}, "")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// inventory is one line a file below dir, with all that there is to tell of it. Links are told by the first name of
// theirs.
func inventory(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		more := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			value := make([]byte, 64)
			n, _ := unix.Getxattr(path, "user.number", value)
			more = fmt.Sprintf("%x %q", sha256.Sum256(b), value[:max(n, 0)])
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			more += " " + first[st.Ino]
		case unix.S_IFLNK:
			more, err = os.Readlink(path)
		case unix.S_IFDIR:
			if st.Size = 0; name == "." {
				return nil
			}
		}
		list = append(list, fmt.Sprintf("%s %o %d:%d %d %d.%09d %d %s",
			name, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink, more))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// same fails the test with the first lines that differ.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d lines, want %d", what, len(got), len(want))
	}
	shown := 0
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] && shown < 10 {
			t.Errorf("%s:\n%s, want\n%s", what, got[i], want[i])
			shown++
		}
	}
}

func TestTarUnpacksAsOnTheHost(t *testing.T) {
	dir := t.TempDir()
	archive := filepath.Join(dir, "motley.tar")
	if err := os.WriteFile(archive, motley(t), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"host", "guest"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const unpack = "tar --numeric-owner --xattrs --xattrs-include='*' -xpf %s -C %s"
	if out, err := exec.Command("sh", "-c", fmt.Sprintf(unpack, archive, filepath.Join(dir, "host"))).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := debian(t, bindFlag(dir, "/srv/dir", "rw"))
	b.run(t, fmt.Sprintf(unpack, "/srv/dir/motley.tar", "/srv/dir/guest"))
	same(t, "unpacked in the guest", inventory(t, filepath.Join(dir, "guest")), inventory(t, filepath.Join(dir, "host")))
	// As tar sees it from inside: it compares modes, owners, times, contents.
	b.expect(t, "tar --numeric-owner --xattrs -df /srv/dir/motley.tar -C /srv/dir/guest", "")
	b.expect(t, "rm -r /srv/dir/guest/*; ls -A /srv/dir/guest", "")
}

// kernelSource is where the package of the guest kernel's source has it.
const kernelSource = "/usr/src/linux-source-6.12.tar.xz"

// Ten thousand files of a kernel tree, unpacked in the container's root, are those that the host unpacks.
func TestAKernelTreeUnpacks(t *testing.T) {
	if _, err := os.Stat(kernelSource); err != nil {
		t.Skipf("no source of a kernel: %v", err)
	}
	needDebian(t)
	dir := t.TempDir()
	out, err := exec.Command("sh", "-ec", `mkdir "$1/tree"
		xz -dc -T0 "$0" | tar -x --no-same-owner -C "$1/tree" --strip-components=1 --no-wildcards-match-slash --wildcards \
			'*/include' '*/fs' '*/kernel' '*/mm'
		tar --format=posix -cf "$1/tree.tar" -C "$1/tree" .`, kernelSource, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := debian(t, bindFlag(dir, "/srv/dir", "ro"))
	b.run(t, "mkdir /root/tree; tar -xf /srv/dir/tree.tar -C /root/tree")
	for _, look := range []string{
		`find . -mindepth 1 -printf '%y %m %T@ %l %p\n' | LC_ALL=C sort`,
		`find . -type f -print0 | LC_ALL=C sort -z | xargs -0 cksum`,
	} {
		want := output(t, "sh", "-ec", "cd "+filepath.Join(dir, "tree")+"; "+look)
		same(t, look, strings.Split(b.run(t, "cd /root/tree; "+look), "\n"), strings.Split(want, "\n"))
	}
	b.expect(t, "rm -r /root/tree; ls /root", "")
}

// What docker in a container does: an overlay whose upper and work directories are on virtio-fs.
func TestOverlayOnTopOfVirtiofs(t *testing.T) {
	dir := t.TempDir()
	b := debian(t, "--privileged", bindFlag(dir, "/srv/o", "rw"))
	b.run(t, `
		cd /srv/o
		mkdir -p lower/dir/sub lower/gone lower/opaque lower/empty upper work merged
		for f in lower/file lower/remove lower/dir/one lower/dir/sub/two lower/gone/three lower/opaque/four; do echo $f >$f; done
		chown 12:34 lower/file; chmod 4750 lower/file; touch -d '2001-02-03 04:05:06.789' lower/file; ln lower/file lower/linked
		setpriv --help >/dev/null
		dmesg -C
		mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=on,index=off,metacopy=off merged
		cd merged
		rm remove                                   # a whiteout
		rm -r gone
		rm -r opaque; mkdir opaque; echo new >opaque/new
		mv dir moved; echo more >>moved/sub/two     # a redirect
		chmod 4755 file                             # copied up, with all it has
		echo again >again; rm again; echo twice >again; mv again remove   # over a whiteout
		mv empty/ again; rmdir again                # a directory of the lower layer goes
		exec 3<>unlinked; rm unlinked; echo kept >&3; cat /proc/self/fd/3 >read`)
	// The kernel says so when the upper layer lacks something.
	b.expect(t, "dmesg | grep -i overlay || true", "")
	const look = `cd /srv/o/merged; find . -mindepth 1 | LC_ALL=C sort; cat remove moved/sub/two opaque/new read; stat -c '%a %u:%g %h %y' file linked`
	want := `./file
./linked
./moved
./moved/one
./moved/sub
./moved/sub/two
./opaque
./opaque/new
./read
./remove
twice
lower/dir/sub/two
more
new
kept
4755 12:34 1 2001-02-03 04:05:06.789000000 +0000
4750 12:34 2 2001-02-03 04:05:06.789000000 +0000
`
	b.expect(t, look, want)
	// Again from what is on the disk, as after a restart.
	b.run(t, `cd /srv/o; umount merged; echo 3 >/proc/sys/vm/drop_caches
		mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,redirect_dir=on,index=off,metacopy=off merged`)
	b.expect(t, look, want)
	for _, name := range []string{"gone", "dir", "empty"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, "upper", name), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("%s is no whiteout on the host: mode %o, device %d, %v", name, st.Mode, st.Rdev, err)
		}
	}
}

// A root has ACLs as the host's file system has: they are set, obeyed, inherited, copied, and kept by the host.
func TestACLsHoldInTheRoot(t *testing.T) {
	aclsHold(t, debian(t))
}

// So has a shared directory, where the configuration says so.
func TestACLsHoldInASharedDirectory(t *testing.T) {
	config := filepath.Join(t.TempDir(), "husk.toml")
	if err := os.WriteFile(config, []byte(configuration("shared_acls = true\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := debian(t, "--runtime-config-path", config, bindFlag(dir, "/srv", "rw"))
	aclsHold(t, b)
	b.run(t, "setfacl -m u:ann:r /srv/team/paper")
	if n, err := unix.Getxattr(filepath.Join(dir, "team/paper"), "system.posix_acl_access", nil); err != nil || n == 0 {
		t.Errorf("the file's ACL on the host: %d bytes, %v", n, err)
	}
	// It is the root's file system to the guest.
	b.expect(t, "cd /srv; mkdir /below; mv team/new /below; cat /below/new; stat -c %d / /srv | uniq | wc -l", "ann\n1\n")
}

// aclsHold works with ACLs in a box's /srv.
func aclsHold(t *testing.T, b *box) {
	t.Helper()
	b.run(t, `
		useradd -u 3001 ann; useradd -u 3002 bob
		mkdir /srv/team; echo secret >/srv/team/paper; chmod 600 /srv/team/paper
		setfacl -m u:ann:r,u:bob:- /srv/team/paper
		setfacl -d -m u:ann:rwx,o::- /srv/team`)
	const as = `setpriv --reuid=%s --regid=%[1]s --clear-groups sh -c '%s' 2>&1 || true`
	b.expect(t, fmt.Sprintf(as, "3001", "cat /srv/team/paper; echo more >>/srv/team/paper"), "secret\nsh: 1: cannot create /srv/team/paper: Permission denied\n")
	b.expect(t, fmt.Sprintf(as, "3002", "cat /srv/team/paper"), "cat: /srv/team/paper: Permission denied\n")
	b.expect(t, "cd /srv; getfacl -c team/paper; umask 077; touch team/new; mkdir team/sub; getfacl -c team/new; getfacl -cd team/sub",
		"user::rw-\nuser:ann:r--\nuser:bob:---\ngroup::---\nmask::r--\nother::---\n\n"+
			"user::rw-\nuser:ann:rwx\t#effective:rw-\ngroup::r-x\t#effective:r--\nmask::rw-\nother::---\n\n"+
			"user::rwx\nuser:ann:rwx\ngroup::r-x\nmask::rwx\nother::---\n\n")
	b.expect(t, fmt.Sprintf(as, "3001", "echo ann >>/srv/team/new; cat /srv/team/new"), "ann\n")
	b.expect(t, "cd /srv; chmod g= team/paper; getfacl -c team/paper | grep mask; cp -a team copy; getfacl -cR team >a; getfacl -cR copy >b; cmp a b; ls -l copy/paper | cut -c 11",
		"mask::---\n+\n")
	b.expect(t, "cd /srv; setfacl -bR team; getfacl -c team/new", "user::rw-\ngroup::r--\nother::---\n\n")
}

// descriptors is how many open files a process has.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// A file that the guest has open, or remembers, is a descriptor of the VMM's: as long as that, and no longer. Four
// processes have a thousand files open each, all at the same time.
func TestThousandsOfOpenFilesLeaveNoDescriptor(t *testing.T) {
	const files = 4000
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := debian(t, "--privileged", bindFlag(dir, "/srv/dir", "rw"))
	vmms := pidsOf(t, b.id, vmmName)
	if len(vmms) != 1 {
		t.Fatalf("VMMs: %v", vmms)
	}
	const forget = "echo 3 >/proc/sys/vm/drop_caches"
	b.run(t, "ls /srv/dir >/dev/null; perl -e 1; "+forget)
	start := descriptors(t, vmms[0])
	for range 3 {
		b.expect(t, `
			mkdir /tmp/ready
			for p in 0 1 2 3; do
				perl -e 'my $p = shift;
					for my $i (0..999) { open(my $f, "+<", "/srv/dir/" . ($p * 1000 + $i)) or die "$i: $!"; push @f, $f }
					open(my $r, ">", "/tmp/ready/$p") or die; close $r;
					while (@r = </tmp/ready/*>, @r < 4) { select undef, undef, undef, 0.02 }
					print scalar(@f), "\n"' $p &
			done
			wait
			rm -r /tmp/ready`, strings.Repeat("1000\n", 4))
	}
	if n := descriptors(t, vmms[0]); n < start+files {
		t.Errorf("%d descriptors with %d inodes in the guest's cache, from %d", n, files, start)
	}
	// What the guest's kernel drops late, it drops at the next time.
	eventually(t, "the descriptors are closed", func() bool {
		b.run(t, forget)
		return descriptors(t, vmms[0]) <= start+20
	})
}
