package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher reports the OOM kills of groups. It costs nothing until a group is added.
type Watcher struct {
	report func(id string)

	mu      sync.Mutex
	inotify *os.File
	watched map[*Group]*watch
}

type watch struct {
	id    string
	group *Group
	wd    int // of inotify; -1 for a group that is looked at only when asked to
	seen  uint64
}

// NewWatcher calls report, from a goroutine of its own, for each group that has had further OOM kills.
func NewWatcher(report func(id string)) *Watcher {
	return &Watcher{report: report, watched: map[*Group]*watch{}}
}

// Add watches a group until Remove. A kernel without the memory controller has nothing to watch. Where containers have
// used up what there is of inotify, which they share with the agent, kills are told only when Check is called.
func (w *Watcher) Add(id string, g *Group) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	wd, err := w.begin(g)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EMFILE):
		slog.Warn("watch for OOM kills", "container", id, "error", err)
		wd = -1
	case err != nil:
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	w.watched[g] = &watch{id: id, group: g, wd: wd}
	return nil
}

func (w *Watcher) begin(g *Group) (wd int, err error) {
	if w.inotify == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return -1, err
		}
		w.inotify = os.NewFile(uintptr(fd), "inotify")
		go w.run(w.inotify)
	}
	return w.control(func(fd int) (int, error) {
		return unix.InotifyAddWatch(fd, g.EventsFile(), unix.IN_MODIFY)
	})
}

// Remove ends the watch of a group, reporting first what was not yet.
func (w *Watcher) Remove(g *Group) {
	w.Check(g)
	w.mu.Lock()
	defer w.mu.Unlock()
	it := w.watched[g]
	if it == nil {
		return
	}
	delete(w.watched, g)
	if it.wd >= 0 {
		_, _ = w.control(func(fd int) (int, error) {
			return unix.InotifyRmWatch(fd, uint32(it.wd))
		})
	}
}

// Check reports at once: it is called before an exit is told, so that the reason comes before it.
func (w *Watcher) Check(g *Group) {
	w.mu.Lock()
	found := w.watched[g]
	w.mu.Unlock()
	if found != nil {
		w.look(found)
	}
}

func (w *Watcher) look(it *watch) {
	n := it.group.OOMKills()
	w.mu.Lock()
	further := n > it.seen
	it.seen = max(it.seen, n)
	w.mu.Unlock()
	if further {
		w.report(it.id)
	}
}

func (w *Watcher) run(inotify *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := inotify.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int(int32(binary.NativeEndian.Uint32(b)))
			length := binary.NativeEndian.Uint32(b[12:])
			b = b[min(len(b), unix.SizeofInotifyEvent+int(length)):]
			if it := w.of(wd); it != nil {
				w.look(it)
			}
		}
	}
}

func (w *Watcher) of(wd int) *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range w.watched {
		if it.wd == wd {
			return it
		}
	}
	return nil
}

func (w *Watcher) control(f func(fd int) (int, error)) (n int, err error) {
	raw, err := w.inotify.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = f(int(fd)) }); cerr != nil {
		return 0, cerr
	}
	return n, err
}
