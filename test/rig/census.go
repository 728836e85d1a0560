package rig

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Census says where sandboxes may leave something on the host.
type Census struct {
	Programs []string // how processes' names begin, as far as the kernel keeps them: 15 bytes
	Mounts   []string // parts of mount points
	Cgroups  []string // parts of cgroups' paths
	Files    []string // patterns
	Lasting  []string // names, of processes or files, that are there to stay
}

// Found is what a census found: one entry a thing, "kind name".
type Found struct {
	Entries []string
	census  Census
}

// TB is what a census tells a test by.
type TB interface {
	Helper()
	Fatal(...any)
	Errorf(string, ...any)
}

// Take is Look for a test.
func (c Census) Take(t TB) Found {
	t.Helper()
	f, err := c.Look()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Expect fails the test when something is left.
func (f Found) Expect(t TB) {
	t.Helper()
	if err := f.Gone(); err != nil {
		t.Errorf("%v", err)
	}
}

// Gone waits until nothing is there that was not found. It is an error when that takes more than half a minute. What was
// found may go: an earlier container's end may still be under way.
func (f Found) Gone() error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left, err := f.since()
		switch {
		case err != nil:
			return err
		case len(left) == 0:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	}
}

// Since are the names of a kind that were not found.
func (f Found) Since(t TB, kind string) (names []string) {
	t.Helper()
	entries, err := f.since()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name, ok := strings.CutPrefix(entry, kind+" "); ok {
			names = append(names, name)
		}
	}
	return names
}

func (f Found) since() ([]string, error) {
	now, err := f.census.Look()
	return slices.DeleteFunc(now.Entries, func(entry string) bool { return slices.Contains(f.Entries, entry) }), err
}

// Look lists every process, mount, cgroup and file that is there now.
func (c Census) Look() (Found, error) {
	f := Found{census: c}
	add := func(kind, name string) { f.Entries = append(f.Entries, kind+" "+name) }
	for _, program := range c.Programs {
		for _, pid := range Processes(program) {
			if comm := command(pid); !slices.Contains(c.Lasting, comm) {
				add("process", comm+" "+pid)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return f, err
	}
	for line := range strings.Lines(string(mounts)) {
		if target := strings.Fields(line)[4]; containsAny(target, c.Mounts) {
			add("mount", target)
		}
	}
	// Groups come and go meanwhile.
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && containsAny(path, c.Cgroups) {
			add("cgroup", path)
		}
		return nil
	})
	for _, pattern := range c.Files {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return f, fmt.Errorf("%s: %w", pattern, err)
		}
		for _, n := range names {
			if !slices.Contains(c.Lasting, filepath.Base(n)) {
				add("file", n)
			}
		}
	}
	return f, nil
}

// Processes are the pids of those whose names begin so.
func Processes(name string) (pids []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if pid := filepath.Base(dir); strings.HasPrefix(command(pid), name) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// command is a process's name; empty when it is gone.
func command(pid string) string {
	comm, _ := os.ReadFile("/proc/" + pid + "/comm")
	return strings.TrimSpace(string(comm))
}

func containsAny(s string, parts []string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(s, part) })
}
