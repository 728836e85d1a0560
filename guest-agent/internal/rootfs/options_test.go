package rootfs

import (
	"strings"
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
		{"words of fstab", "tmpfs", []string{"defaults", "loud"}, options{}},
		{"the whole file system's", "tmpfs", []string{"sync", "lazytime"}, options{params: []param{{"sync", "", true}, {"lazytime", "", true}}}},
		{"the whole file system's on a bind", "bind", []string{"sync", "dirsync"}, options{bind: true, params: []param{}}},
		{"remount", "none", []string{"remount", "bind", "ro"}, options{bind: true, remount: true, set: unix.MOUNT_ATTR_RDONLY}},
		{"copy up", "tmpfs", []string{"tmpcopyup"}, options{copyUp: true}},
		{"mapped ids", "bind", []string{"rbind", "ridmap"}, options{bind: true, recursive: true, idmap: mapTree}},
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
		{"the file system's own", "tmpfs", []string{"size=64k", "mode=1777", "nr_inodes=5", "newinstance", "opt=a=b", "empty="},
			options{params: []param{{"size", "64k", false}, {"mode", "1777", false}, {"nr_inodes", "5", false},
				{"newinstance", "", true}, {"opt", "a=b", false}, {"empty", "", false}}}},
	} {
		got, err := parseOptions(c.fstype, c.in)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(options{}, propagation{}, param{})); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

func TestMountOptionsThatMakeNoSenseAreErrors(t *testing.T) {
	for _, c := range []struct {
		fstype string
		words  []string
	}{
		{"bind", []string{"size=1m"}},
		{"none", []string{"rbind", "hidepid=2"}},
		{"bind", []string{"tmpcopyup"}},
		{"proc", []string{"tmpcopyup"}},
		{"tmpfs", []string{"tmpcopyup", "remount"}},
	} {
		if o, err := parseOptions(c.fstype, c.words); err == nil {
			t.Errorf("%s %q: accepted as %+v", c.fstype, c.words, o)
		}
	}
}

// TestEveryOptionOfTheSpecIsKnown takes the table of the runtime-spec's config.md (linux mount options).
func TestEveryOptionOfTheSpecIsKnown(t *testing.T) {
	for word := range strings.FieldsSeq(`async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand
		noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow
		private ratime rbind rdev rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime
		rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow
		runbindable rw shared silent slave strictatime suid symfollow sync rnodev unbindable idmap ridmap`) {
		if _, err := parseOptions("bind", []string{word}); err != nil {
			t.Errorf("%s: %v", word, err)
		}
	}
}
