package rootfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// options is what a mount's option list asks for. Attributes belong to the mount, parameters to its file system.
type options struct {
	bind        bool
	recursive   bool // of the bind
	set, clear  uint64
	rset        uint64 // of the whole tree below
	rclear      uint64
	propagation []propagation
	params      []param
	remount     bool // change the mount that is there
	copyUp      bool // a new file system begins with what it covers
	idmap       idmap
}

// idmap is whether a mount's ids are mapped, and those of the mounts below it.
type idmap int

const (
	noMap idmap = iota
	mapOne
	mapTree
)

type propagation struct {
	kind      uint64
	recursive bool
}

// param is one parameter of a file system; a flag has no value.
type param struct {
	key, value string
	flag       bool
}

// attribute is one option that changes mount attributes. An access-time mode replaces the mode before it,
// so it clears them all.
type attribute struct{ set, clear uint64 }

var attributes = map[string]attribute{
	"ro":            {set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {set: unix.MOUNT_ATTR_NODEV},
	"dev":           {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {clear: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":         {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
}

var propagations = map[string]propagation{
	"private":     {unix.MS_PRIVATE, false},
	"rprivate":    {unix.MS_PRIVATE, true},
	"slave":       {unix.MS_SLAVE, false},
	"rslave":      {unix.MS_SLAVE, true},
	"shared":      {unix.MS_SHARED, false},
	"rshared":     {unix.MS_SHARED, true},
	"unbindable":  {unix.MS_UNBINDABLE, false},
	"runbindable": {unix.MS_UNBINDABLE, true},
}

// meaningless options are words of fstab that change nothing here.
var meaningless = map[string]bool{
	"": true, "defaults": true, "silent": true, "loud": true,
	"acl": true, "noacl": true, "nomand": true, "mand": true, "iversion": true, "noiversion": true,
}

// shared options are flags of a file system, not of one mount of it. A bind can't change them, and the kernel
// ignores them there; a new file system begins without.
var shared = map[string]bool{
	"sync": true, "async": true, "dirsync": true, "lazytime": true, "nolazytime": true,
}

// parseOptions reads the words of the runtime-spec's table of mount options; any other is the file system's, which
// refuses what it does not know.
func parseOptions(fstype string, words []string) (options, error) {
	o := options{bind: fstype == "bind"}
	for _, w := range words {
		if meaningless[w] {
			continue
		}
		if a, ok := attributes[w]; ok {
			o.set, o.clear = o.set&^a.clear|a.set, o.clear&^a.set|a.clear
			continue
		}
		if a, ok := attributes[strings.TrimPrefix(w, "r")]; ok {
			o.rset, o.rclear = o.rset&^a.clear|a.set, o.rclear&^a.set|a.clear
			continue
		}
		if p, ok := propagations[w]; ok {
			o.propagation = append(o.propagation, p)
			continue
		}
		switch w {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "remount":
			o.remount = true
		case "tmpcopyup":
			o.copyUp = true
		case "idmap":
			o.idmap = mapOne
		case "ridmap":
			o.idmap = mapTree
		default:
			key, value, ok := strings.Cut(w, "=")
			o.params = append(o.params, param{key, value, !ok})
		}
	}
	return o, o.check(fstype)
}

// check refuses what contradicts itself, and drops from a bind what the kernel would ignore.
func (o *options) check(fstype string) error {
	switch {
	case o.copyUp && (o.bind || fstype != "tmpfs"):
		return errors.New(`option "tmpcopyup" is for a mount of type tmpfs`)
	case o.copyUp && o.remount:
		return errors.New(`option "tmpcopyup" is for a new mount, not for a remount`)
	case !o.bind:
		return nil
	}
	o.params = slices.DeleteFunc(o.params, func(p param) bool { return p.flag && shared[p.key] })
	if len(o.params) > 0 {
		return fmt.Errorf("option %q is a file system's, and a bind mount makes none", o.params[0].key)
	}
	return nil
}
