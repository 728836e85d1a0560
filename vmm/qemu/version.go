package qemu

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// Version is a release of QEMU, as in 7.2.
type Version struct{ Major, Minor int }

// MinVersion is the oldest QEMU that is used. vhost-user-vsock, free page reporting and memory-backend= came by 5.1,
// microvm, rng-builtin and chardevs on open sockets before; from 6.2 on -smp N means N cores of one processor, not N
// processors. 6.2 is Ubuntu 22.04's and RHEL 8's; of what distributions still look after, nothing is older.
var MinVersion = Version{6, 2}

// codeLocked is the first release that locks code while it is translated.
var codeLocked = Version{8, 1}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Before says whether v is older than w.
func (v Version) Before(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

// Of "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)" and the like.
var versionLine = regexp.MustCompile(`(?m)^QEMU emulator version (\d{1,4})\.(\d{1,4})`)

func parseVersion(out string) (Version, error) {
	m := versionLine.FindStringSubmatch(out)
	if m == nil {
		return Version{}, errors.New("does not tell a version as QEMU does: name a qemu-system program")
	}
	major, _ := strconv.Atoi(m[1]) // four digits at most
	minor, _ := strconv.Atoi(m[2])
	return Version{major, minor}, nil
}
