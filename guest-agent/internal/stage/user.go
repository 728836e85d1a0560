package stage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxUserFile bounds /etc/passwd and /etc/group, which the image controls.
const maxUserFile = 16 << 20

type account struct {
	uid, gid int
	groups   []uint32
	home     string
}

// resolveUser reads the container's own passwd and group files, for the home directory. A name counts, and all of
// it, where no number is given: the runtime-spec has it for Windows only, and with other runtimes such a process is
// root. Beside a number it means nothing.
func resolveUser(u specs.User) (account, error) {
	byName := u.Username != "" && u.UID == 0 && u.GID == 0
	spec := strconv.FormatUint(uint64(u.UID), 10)
	if byName {
		spec = u.Username
	}
	passwd, group := openUserFile("/etc/passwd"), openUserFile("/etc/group")
	defer passwd.Close()
	defer group.Close()
	found, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if !byName {
		a := account{uid: int(u.UID), gid: int(u.GID), groups: u.AdditionalGids, home: "/"}
		// A file that can't be parsed costs nothing but the home directory.
		if err == nil && found.Home != "" {
			a.home = found.Home
		}
		return a, nil
	}
	if err != nil {
		return account{}, fmt.Errorf("user %q: %w", u.Username, err)
	}
	a := account{uid: found.Uid, gid: found.Gid, groups: u.AdditionalGids, home: found.Home}
	for _, g := range found.Sgids {
		a.groups = append(a.groups, uint32(g))
	}
	return a, nil
}

// openUserFile answers an empty reader for what is missing or is no regular file.
func openUserFile(name string) io.ReadCloser {
	empty := io.NopCloser(strings.NewReader(""))
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return empty
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return empty
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxUserFile), f}
}

// setIDs changes the calling thread only: execve makes its credentials the process's, and a thread that keeps
// its privileges may still be needed. Capabilities stay, by PR_SET_KEEPCAPS.
func setIDs(a account) error {
	// -1 would leave an id unchanged.
	if a.uid < 0 || int64(a.uid) >= 1<<32-1 || a.gid < 0 || int64(a.gid) >= 1<<32-1 {
		return errors.New("user or group id out of range")
	}
	if err := setgroups(a.groups); err != nil {
		return fmt.Errorf("set groups %v: %w", a.groups, err)
	}
	gid, uid := uintptr(a.gid), uintptr(a.uid)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("set group %d: %w", a.gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("set user %d: %w", a.uid, errno)
	}
	return nil
}
