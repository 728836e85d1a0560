package rootfs

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestMountOptionsAreReadInOrder(t *testing.T) {
	for _, c := range []struct {
		name, fstype string
		in           []string
		want         options
	}{
		{"none", "tmpfs", nil, options{}},
		{"words of fstab", "tmpfs", []string{"defaults", "async"}, options{}},
		{"flags", "tmpfs", []string{"nosuid", "nodev", "noexec", "ro"},
			options{set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY}},
		{"the last one counts", "bind", []string{"ro", "rw"}, options{bind: true, clear: unix.MOUNT_ATTR_RDONLY}},
		{"access times replace each other", "tmpfs", []string{"noatime", "relatime", "strictatime"},
			options{set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME}},
		{"recursive flags", "bind", []string{"rbind", "rro", "rnosuid"},
			options{bind: true, recursive: true, rset: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}},
		{"rw is no recursive w", "bind", []string{"rw"}, options{bind: true, clear: unix.MOUNT_ATTR_RDONLY}},
		{"bind by option alone", "none", []string{"bind"}, options{bind: true}},
		{"propagation", "bind", []string{"rshared", "private"}, options{bind: true, propagation: []propagation{
			{unix.MS_SHARED, true}, {unix.MS_PRIVATE, false}}}},
		{"the file system's own", "tmpfs", []string{"size=64k", "mode=1777", "nr_inodes=5", "newinstance", "opt=a=b"},
			options{params: []param{{"size", "64k"}, {"mode", "1777"}, {"nr_inodes", "5"}, {"newinstance", ""}, {"opt", "a=b"}}}},
	} {
		got, err := parseOptions(c.fstype, c.in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(options{}, propagation{}, param{})); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
	if _, err := parseOptions("bind", []string{"idmap"}); err == nil {
		t.Error("an id-mapped mount was accepted")
	}
}
