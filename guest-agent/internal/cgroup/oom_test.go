package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func killed(t *testing.T, g *Group, times string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, "memory.events"), []byte("oom 9\noom_kill "+times+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOOMKillsAreToldWithoutAWatch: one that the kernel refuses fails no container.
func TestOOMKillsAreToldWithoutAWatch(t *testing.T) {
	told := make(chan string, 8)
	w := NewWatcher(func(id string) { told <- id })
	unwatched, watched := &Group{dir: t.TempDir()}, &Group{dir: t.TempDir()}
	killed(t, unwatched, "0")
	killed(t, watched, "0")

	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: files.Max}); err != nil {
		t.Fatal(err)
	}
	err := w.Add("unwatched", unwatched)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if w.inotify != nil {
		t.Error("it is watched")
	}
	killed(t, unwatched, "1")
	w.Check(unwatched)
	w.Check(unwatched)
	w.Remove(unwatched)
	if len(told) != 1 || <-told != "unwatched" {
		t.Error("the kill was not told once")
	}

	if err := w.Add("watched", watched); err != nil {
		t.Fatal(err)
	}
	killed(t, watched, "1")
	select {
	case id := <-told:
		if id != "watched" {
			t.Errorf("told of %s", id)
		}
	case <-time.After(10 * time.Second):
		t.Error("the kill was not told")
	}
	w.Remove(watched)
	if len(w.watched) != 0 {
		t.Errorf("left: %v", w.watched)
	}
}
