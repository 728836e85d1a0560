package hostcgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watch knows whether the kernel has killed in a cgroup for want of memory, even when the cgroup is gone: systemd
// removes a scope as soon as nothing is in it. The kernel tells through a descriptor, so that it costs nothing as long as
// there is memory.
type watch struct {
	dir, file string
	told      *os.File      // nil where the kernel tells nothing, and behind the end
	done      chan struct{} // closed when nobody reads told any more

	begin, last oomEvents
	above       uint64 // kills in the parent and all below it, when last was read
	events      int    // told while the cgroup was there
	signals     uint64 // on cgroup v1, all that were told: each want of memory, and the end
	unread      bool   // one was told, and then there was nothing to read
}

// oomEvents are counters of memory.events on cgroup v2, and of memory.oom_control on v1, which has kills only.
type oomEvents struct{ max, oom, kills uint64 }

const (
	eventsV2 = "memory.events"
	eventsV1 = "memory.oom_control"
)

// watchOOM watches the cgroup whose memory controller is at dir.
func watchOOM(dir string) (w *watch, err error) {
	w = &watch{dir: dir, file: eventsV2}
	fd, err := tellV2(dir)
	if err == unix.ENOENT {
		w.file = eventsV1
		if fd, err = tellV1(dir); err != nil {
			fd, err = -1, nil // a kernel that tells nothing there, such as a real-time one
		}
	}
	if err != nil {
		return nil, fmt.Errorf("watch cgroup %s for want of memory: %w", dir, err)
	}
	w.begin, _ = readEvents(w.path())
	w.last, w.above = w.begin, w.parent()
	if fd >= 0 {
		w.told, w.done = os.NewFile(uintptr(fd), w.file), make(chan struct{})
		go w.run()
	}
	return w, nil
}

func tellV2(dir string) (fd int, err error) {
	fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return -1, err
	}
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(dir, eventsV2), unix.IN_MODIFY); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func tellV1(dir string) (fd int, err error) {
	control, err := os.Open(filepath.Join(dir, eventsV1))
	if err != nil {
		return -1, err
	}
	defer control.Close()
	fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, err
	}
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (w *watch) path() string { return filepath.Join(w.dir, w.file) }

// parent counts as cgroup v2 does, where a cgroup's kills are its ancestors' too. The root has no such file: there, all
// of the host's count.
func (w *watch) parent() uint64 {
	e, err := readEvents(filepath.Join(filepath.Dir(w.dir), eventsV2))
	if err != nil {
		e, _ = readEvents("/proc/vmstat")
	}
	return e.kills
}

func (w *watch) run() {
	defer close(w.done)
	buf := make([]byte, 16*unix.SizeofInotifyEvent)
	for {
		n, err := w.told.Read(buf)
		if err != nil {
			return
		}
		w.note(buf[:n])
	}
}

// note reads the counters once more, for what was told. Cgroup v1 tells the cgroup's end as well, in the same words, and
// v2 may, in its own.
func (w *watch) note(told []byte) {
	switch {
	case w.file == eventsV1:
		w.signals += binary.NativeEndian.Uint64(told)
	case !modified(told):
		return
	}
	e, err := readEvents(w.path())
	if err != nil {
		w.unread = true
		return
	}
	w.events++
	w.last, w.above = e, w.parent()
}

// modified says whether inotify tells of a change.
func modified(told []byte) bool {
	for len(told) >= unix.SizeofInotifyEvent {
		if binary.NativeEndian.Uint32(told[4:])&unix.IN_MODIFY != 0 {
			return true
		}
		name := binary.NativeEndian.Uint32(told[12:])
		told = told[min(len(told), unix.SizeofInotifyEvent+int(name)):]
	}
	return false
}

// end ends the watch, after which killed has an answer. It may be called more than once.
func (w *watch) end() {
	if w.told == nil {
		return
	}
	_ = w.told.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	if raw, err := w.told.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			buf := make([]byte, 16*unix.SizeofInotifyEvent)
			if n, err := unix.Read(int(fd), buf); err == nil {
				w.note(buf[:n])
			}
		})
	}
	if w.undecided() {
		_ = w.told.SetReadDeadline(time.Now().Add(offlineTime))
		var value [8]byte
		if n, err := w.told.Read(value[:]); err == nil {
			w.note(value[:n])
		}
	}
	_ = w.told.Close()
	w.told = nil
}

// offlineTime is what a kernel may take to tell the end of a cgroup that is gone.
const offlineTime = 2 * time.Second

// undecided says whether one signal of cgroup v1 may be the want of memory or the end: then another one decides.
func (w *watch) undecided() bool {
	_, err := os.Stat(w.path())
	return w.file == eventsV1 && err != nil && w.events == 0 && w.signals == 1 && w.parent() > w.above
}

// killed says whether there was a kill since the watch began.
func (w *watch) killed() bool {
	if e, err := readEvents(w.path()); err == nil {
		return e.kills > w.begin.kills
	}
	switch {
	case w.last.kills > w.begin.kills:
		return true
	case w.file == eventsV1:
		// It was told before the kill.
		return w.events > 0 || w.signals > 1
	case w.last.oom > w.begin.oom:
		return true
	}
	// The kernel may hold an event back for 10 ms. Then the parent, whose counters stay, has one more than when the
	// cgroup was last known to come to its limit.
	return (w.unread || w.last.max > w.begin.max) && w.parent() > w.above
}

func readEvents(path string) (e oomEvents, err error) {
	text, err := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch key {
		case "max":
			e.max = n
		case "oom":
			e.oom = n
		case "oom_kill":
			e.kills = n
		}
	}
	return e, err
}
