package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// users are who tries: with the owner's rights, the group's by either kind of membership, the others', and all.
var users = []struct {
	name     string
	uid, gid int
	groups   []int
}{
	{"owner", 1000, 5000, nil}, {"group", 1001, 2000, nil}, {"member", 1002, 5000, []int{2000, 3000}}, {"other", 1003, 5000, []int{3000}}, {"root", 0, 0, nil},
}

func permissions(t *T) {
	for _, mode := range []uint32{0o000, 0o777, 0o700, 0o070, 0o007, 0o400, 0o040, 0o004, 0o600, 0o060, 0o006, 0o644, 0o755, 0o711, 0o123} {
		file, dir := t.p(fmt.Sprintf("f%o", mode)), t.p(fmt.Sprintf("d%o", mode))
		t.must(os.WriteFile(file, []byte("x"), 0o600))
		t.must(os.MkdirAll(dir+"/sub", 0o755))
		t.must(os.WriteFile(dir+"/f", []byte("x"), 0o666))
		for _, path := range []string{file, dir} {
			t.must(unix.Chown(path, 1000, 2000))
			t.must(unix.Chmod(path, mode))
		}
		for _, u := range users {
			who := fmt.Sprintf("%03o %s", mode, u.name)
			t.as(u.uid, u.gid, u.groups, func() {
				t.is(who+" opens a file", tryOpen(file, unix.O_RDONLY, 0), tryOpen(file, unix.O_WRONLY, 0), tryOpen(file, unix.O_RDWR, 0))
				t.is(who+" accesses a file", unix.Access(file, unix.R_OK), unix.Access(file, unix.W_OK), unix.Access(file, unix.X_OK), unix.Access(file, unix.F_OK))
				t.is(who+" truncates a file", unix.Truncate(file, 1))
				t.is(who+" lists a directory", tryOpen(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0))
				t.is(who+" searches a directory", tryOpen(dir+"/f", unix.O_RDONLY, 0), unix.Chdir(dir), unix.Chdir("/"))
				err := tryOpen(dir+"/new", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)
				t.is(who+" creates", err, unix.Mkdir(dir+"/newdir", 0o755), unix.Symlink("x", dir+"/newlink"), unix.Link(dir+"/new", dir+"/newname"))
				t.is(who+" renames and removes", unix.Rename(dir+"/new", dir+"/newer"), unix.Unlink(dir+"/newer"), unix.Unlink(dir+"/newname"),
					unix.Rmdir(dir+"/newdir"), unix.Unlink(dir+"/newlink"), unix.Rmdir(dir+"/f"))
			})
			for _, left := range []string{"new", "newer", "newdir", "newlink", "newname"} {
				_ = os.Remove(dir + "/" + left)
			}
		}
	}
}

func owners(t *T) {
	dir := t.mkdir("d", 0o777)
	for _, u := range users {
		t.as(u.uid, u.gid, u.groups, func() {
			path := dir + "/" + u.name
			err := tryOpen(path, unix.O_CREAT|unix.O_WRONLY, 0o644)
			st := t.stat(path)
			t.is(u.name+" creates", err, st.Uid, st.Gid)
			t.must(unix.Mkdir(path+"-d", 0o755))
			t.must(unix.Symlink("x", path+"-l"))
			d, l := t.stat(path+"-d"), t.stat(path+"-l")
			t.is(u.name+"'s directory and link", d.Uid, d.Gid, l.Uid, l.Gid)
		})
	}
	for _, u := range users {
		path := t.file("of owner for "+u.name, "x", 0o644)
		t.must(unix.Chown(path, 1000, 5000))
		t.as(u.uid, u.gid, u.groups, func() {
			t.is(u.name+" changes the mode", unix.Chmod(path, 0o640), t.mode(path))
			for _, id := range [][2]int{{1000, -1}, {-1, 2000}, {-1, 3000}, {-1, 5000}, {1001, -1}, {-1, -1}, {1000, 5000}} {
				err := unix.Chown(path, id[0], id[1])
				st := t.stat(path)
				t.is(fmt.Sprint(u.name, " changes the owner to ", id), err, st.Uid, st.Gid)
			}
			t.is(u.name+" sets times", unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 1}, {Sec: 2}}, 0),
				unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}, 0))
			t.is(u.name+" leaves no access time", tryOpen(path, unix.O_RDONLY|unix.O_NOATIME, 0))
			t.is(u.name+" sets an attribute", unix.Setxattr(path, "user.a", []byte("b"), 0))
		})
	}
	for _, id := range []int{65534, 1 << 20, 1<<31 - 1, 1<<32 - 2} {
		path := t.file(fmt.Sprint(id), "", 0o644)
		err := unix.Chown(path, id, id)
		st := t.stat(path)
		t.is(fmt.Sprint("the owner is ", id), err, st.Uid, st.Gid)
	}
}

// setids: who may have the bits, and what takes them away.
func setids(t *T) {
	for _, mode := range []uint32{0o4755, 0o2755, 0o6755, 0o2745, 0o6666} {
		for _, u := range users {
			name := fmt.Sprintf("%o %s", mode, u.name)
			fresh := func() string {
				path := t.file(name, "content", 0o600)
				t.must(unix.Chown(path, 1000, 2000))
				t.must(unix.Chmod(path, mode|0o006))
				return path
			}
			for _, c := range []struct {
				what string
				do   func(path string) error
			}{
				{"writes", func(path string) error {
					fd, err := unix.Open(path, unix.O_WRONLY, 0)
					if err != nil {
						return err
					}
					defer func() { _ = unix.Close(fd) }()
					_, err = unix.Write(fd, []byte("x"))
					return err
				}},
				{"writes nothing", func(path string) error {
					fd, err := unix.Open(path, unix.O_WRONLY, 0)
					if err != nil {
						return err
					}
					defer func() { _ = unix.Close(fd) }()
					_, err = unix.Write(fd, nil)
					return err
				}},
				{"truncates", func(path string) error { return unix.Truncate(path, 3) }},
				{"truncates at open", func(path string) error { return tryOpen(path, unix.O_WRONLY|unix.O_TRUNC, 0) }},
				{"truncates by descriptor", func(path string) error {
					fd, err := unix.Open(path, unix.O_WRONLY, 0)
					if err != nil {
						return err
					}
					defer func() { _ = unix.Close(fd) }()
					return unix.Ftruncate(fd, 1)
				}},
				{"allocates", func(path string) error {
					fd, err := unix.Open(path, unix.O_WRONLY, 0)
					if err != nil {
						return err
					}
					defer func() { _ = unix.Close(fd) }()
					return unix.Fallocate(fd, 0, 0, 100)
				}},
				{"changes the owner to the same", func(path string) error { return unix.Chown(path, 1000, 2000) }},
				{"changes no owner", func(path string) error { return unix.Chown(path, -1, -1) }},
				{"changes the group", func(path string) error { return unix.Chown(path, -1, 3000) }},
				{"changes the mode", func(path string) error { return unix.Chmod(path, mode|0o002) }},
			} {
				path := fresh()
				t.as(u.uid, u.gid, u.groups, func() { t.is(name+" "+c.what, c.do(path), t.mode(path)) })
				t.must(unix.Unlink(path))
			}
		}
	}
	// A directory's bit gives its group, and itself to directories.
	dir := t.mkdir("inherits", 0o755)
	t.must(unix.Chown(dir, 0, 2000))
	t.must(unix.Chmod(dir, 0o2777))
	for _, u := range users {
		t.as(u.uid, u.gid, u.groups, func() {
			base := dir + "/" + u.name
			t.must(tryOpen(base, unix.O_CREAT|unix.O_WRONLY, 0o2755))
			t.must(unix.Mkdir(base+"-d", 0o755))
			t.must(unix.Symlink("x", base+"-l"))
			t.must(unix.Mkfifo(base+"-p", 0o2644))
			for _, s := range []string{"", "-d", "-l", "-p"} {
				st := t.stat(base + s)
				t.is(u.name+" inherits"+s, st.Uid, st.Gid, fmt.Sprintf("%o", st.Mode))
			}
		})
	}
}

func sticky(t *T) {
	for _, mode := range []uint32{0o777, 0o1777} {
		for _, u := range users {
			dir := t.mkdir(fmt.Sprintf("%o %s", mode, u.name), 0o755)
			t.must(unix.Chown(dir, 1001, 2000))
			t.must(unix.Chmod(dir, mode))
			for _, name := range []string{"f", "g", "h", "mine"} {
				t.must(os.WriteFile(dir+"/"+name, []byte(name), 0o666))
				t.must(unix.Chown(dir+"/"+name, 1000, 2000))
			}
			t.must(unix.Chown(dir+"/mine", u.uid, u.gid))
			t.must(unix.Mkdir(dir+"/d", 0o777))
			t.as(u.uid, u.gid, u.groups, func() {
				t.is(fmt.Sprintf("%o %s", mode, u.name), unix.Unlink(dir+"/f"), unix.Rename(dir+"/g", dir+"/g2"), unix.Rename(dir+"/mine", dir+"/h"), unix.Rmdir(dir+"/d"))
			})
		}
	}
}

// acl encodes entries of tag, permission, id (linux/posix_acl_xattr.h).
func acl(entries ...[3]uint32) []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range entries {
		b = append(b, byte(e[0]), byte(e[0]>>8), byte(e[1]), byte(e[1]>>8), byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	return b
}

func acls(t *T) {
	const (
		userObj, user, groupObj, group, mask, other = 1, 2, 4, 8, 16, 32
		none                                        = 1<<32 - 1
	)
	grant := acl([3]uint32{userObj, 6, none}, [3]uint32{user, 4, 1003}, [3]uint32{groupObj, 0, none}, [3]uint32{group, 6, 3000}, [3]uint32{mask, 7, none}, [3]uint32{other, 0, none})
	f := t.file("f", "x", 0o600)
	t.must(unix.Chown(f, 1000, 2000))
	t.is("set", unix.Setxattr(f, "system.posix_acl_access", grant, 0), t.mode(f))
	buf := make([]byte, 200)
	n, err := unix.Getxattr(f, "system.posix_acl_access", buf)
	t.is("get", err, fmt.Sprintf("%x", buf[:max(n, 0)]))
	for _, u := range users {
		t.as(u.uid, u.gid, u.groups, func() {
			t.is(u.name+" with it", tryOpen(f, unix.O_RDONLY, 0), tryOpen(f, unix.O_RDWR, 0))
		})
	}
	t.is("a mode is the mask", unix.Chmod(f, 0o640), t.mode(f))
	n, err = unix.Getxattr(f, "system.posix_acl_access", buf)
	t.is("get", err, fmt.Sprintf("%x", buf[:max(n, 0)]))
	for _, u := range users {
		t.as(u.uid, u.gid, u.groups, func() {
			t.is(u.name+" with the mask", tryOpen(f, unix.O_RDONLY, 0), tryOpen(f, unix.O_RDWR, 0))
			t.is(u.name+" sets it", unix.Setxattr(f, "system.posix_acl_access", grant, 0))
		})
	}
	t.is("one that is none", unix.Setxattr(f, "system.posix_acl_access", []byte("nonsense"), 0))
	t.is("remove", unix.Removexattr(f, "system.posix_acl_access"), t.mode(f))

	d := t.mkdir("d", 0o777)
	t.is("a directory's default", unix.Setxattr(d, "system.posix_acl_default", grant, 0), t.mode(d))
	t.is("a file's default", unix.Setxattr(f, "system.posix_acl_default", grant, 0))
	unix.Umask(0o077)
	t.must(tryOpen(d+"/f", unix.O_CREAT|unix.O_WRONLY, 0o666))
	t.must(unix.Mkdir(d+"/d", 0o777))
	t.must(unix.Mkfifo(d+"/p", 0o666))
	fd, err := unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o666)
	t.is("no umask in a file without a name", err, fmt.Sprintf("%o", t.fstat(fd).Mode))
	unix.Umask(0)
	for _, name := range []string{"f", "d", "p"} {
		n, err := unix.Getxattr(d+"/"+name, "system.posix_acl_access", buf)
		t.is("inherited by "+name, t.mode(d+"/"+name), err, fmt.Sprintf("%x", buf[:max(n, 0)]))
		n, err = unix.Getxattr(d+"/"+name, "system.posix_acl_default", buf)
		t.is("handed on by "+name, err, fmt.Sprintf("%x", buf[:max(n, 0)]))
	}
	t.as(1003, 5000, nil, func() { t.is("who it names", tryOpen(d+"/f", unix.O_RDONLY, 0), tryOpen(d+"/f", unix.O_WRONLY, 0)) })
}

// xattrList lists names, sorted, since the order is the file system's.
func xattrList(path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return errname(err)
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	return fmt.Sprint(sorted(names))
}

func xattrs(t *T) {
	for _, k := range kinds[1:] {
		path := t.p(k.name)
		t.must(k.make(t, path))
		for _, name := range []string{"user.a", "trusted.a", "security.a", "system.a", "nothing.a", "user.", "user"} {
			err := unix.Lsetxattr(path, name, []byte("value"), 0)
			buf := make([]byte, 100)
			n, gerr := unix.Lgetxattr(path, name, buf)
			t.is(k.name+" "+name, err, gerr, string(buf[:max(n, 0)]))
		}
		t.is(k.name+" lists", xattrList(path))
		t.is(k.name+" removes", unix.Lremovexattr(path, "user.a"), unix.Lremovexattr(path, "user.a"), unix.Lremovexattr(path, "trusted.a"), xattrList(path))
	}
	f := t.file("f", "x", 0o644)
	t.is("replace nothing", unix.Setxattr(f, "user.x", []byte("1"), unix.XATTR_REPLACE))
	t.is("create", unix.Setxattr(f, "user.x", []byte("12345"), unix.XATTR_CREATE))
	t.is("create again", unix.Setxattr(f, "user.x", []byte("2"), unix.XATTR_CREATE))
	t.is("unknown flag", unix.Setxattr(f, "user.x", []byte("2"), 8))
	n, err := unix.Getxattr(f, "user.x", nil)
	t.is("size", err, n)
	_, err = unix.Getxattr(f, "user.x", make([]byte, 3))
	t.is("too little room", err)
	t.is("empty value", unix.Setxattr(f, "user.x", nil, 0))
	n, err = unix.Getxattr(f, "user.x", make([]byte, 3))
	t.is("empty value's size", err, n)
	t.is("name of 255 bytes", unix.Setxattr(f, "user."+strings.Repeat("n", 250), []byte("v"), 0))
	t.is("name of 256 bytes", unix.Setxattr(f, "user."+strings.Repeat("n", 251), []byte("v"), 0))
	t.is("value of 1000 bytes", unix.Setxattr(f, "user.long", make([]byte, 1000), 0))
	t.is("value of 65537 bytes", unix.Setxattr(f, "user.long", make([]byte, 65537), 0))
	n, err = unix.Listxattr(f, nil)
	t.is("size of the list", err, n > 0)
	_, err = unix.Listxattr(f, make([]byte, 3))
	t.is("too little room for the list", err)
	t.must(unix.Chmod(f, 0o604))
	d := t.mkdir("sticky", 0o1777)
	t.as(1000, 1000, nil, func() {
		t.is("a user reads", xattrList(f))
		t.is("a user writes", unix.Setxattr(f, "user.x", []byte("1"), 0), unix.Removexattr(f, "user.x"))
		t.is("a user's trusted", unix.Setxattr(f, "trusted.x", []byte("1"), 0))
		_, err := unix.Getxattr(f, "trusted.x", make([]byte, 10))
		t.is("a user reads trusted", err)
		t.is("a sticky directory of others", unix.Setxattr(d, "user.x", []byte("1"), 0))
	})
	was := t.stat(f)
	t.must(unix.Setxattr(f, "user.again", []byte("1"), 0))
	is := t.stat(f)
	t.is("changes ctime, not mtime", is.Ctim.Nano() >= was.Ctim.Nano(), is.Mtim == was.Mtim)
	t.must(unix.Link(f, t.p("g")))
	t.is("are the inode's", xattrList(t.p("g")) == xattrList(f))
}

// capabilities of files go when the file is written, and need a right.
func capabilities(t *T) {
	value := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // cap_net_bind_service=ep
	buf := make([]byte, 64)
	get := func(path string) string {
		n, err := unix.Getxattr(path, "security.capability", buf)
		if err != nil {
			return errname(err)
		}
		return fmt.Sprintf("%x", buf[:n])
	}
	f := t.file("f", "x", 0o777)
	t.is("set", unix.Setxattr(f, "security.capability", value, 0), get(f), xattrList(f))
	t.is("after chmod", unix.Chmod(f, 0o766), get(f))
	t.is("after rename", unix.Rename(f, t.p("g")), get(t.p("g")))
	fd := t.open(t.p("g"), unix.O_WRONLY)
	_, err := unix.Write(fd, []byte("y"))
	t.is("after a write", err, get(t.p("g")))
	t.must(unix.Setxattr(t.p("g"), "security.capability", value, 0))
	t.is("after truncate", unix.Ftruncate(fd, 0), get(t.p("g")))
	t.must(unix.Setxattr(t.p("g"), "security.capability", value, 0))
	t.is("after chown", unix.Chown(t.p("g"), 1000, 1000), get(t.p("g")))
	t.must(unix.Close(fd))
	t.as(1000, 1000, nil, func() { t.is("a user sets", unix.Setxattr(t.p("g"), "security.capability", value, 0)) })
}
