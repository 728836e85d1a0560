// Package cgroup gives each container of the guest a control group: version 2, the only one the guest's kernel
// has, below one directory that belongs to the agent alone. It is called by package container.
//
// The files are written directly: there is one hierarchy, one owner and no systemd to agree with.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mountPoint = "/sys/fs/cgroup"
	parent     = mountPoint + "/husk"
	// settleTime bounds how long killed or frozen processes may take.
	settleTime = 10 * time.Second
)

// Group is the control group of one container. After Delete it must not be used.
type Group struct {
	dir string
}

// New makes the group. A group of that name that exists is an error: ids are unique.
func New(id string) (*Group, error) {
	if id == "" || id == "." || id == ".." || strings.ContainsAny(id, "/\x00\n") {
		return nil, fmt.Errorf("container id %q can't name a cgroup", id)
	}
	if err := prepareParent(); err != nil {
		return nil, err
	}
	g := &Group{dir: filepath.Join(parent, id)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	return g, nil
}

// prepareParent hands the root's controllers down, on the first container's account and not the boot's.
func prepareParent() error {
	err := os.Mkdir(parent, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create cgroup: %w", err)
	}
	for _, dir := range []string{mountPoint, parent} {
		if err := delegate(dir); err != nil {
			return err
		}
	}
	return reserveThreads()
}

// reserve is how many threads the containers leave to the agent and the kernel, unless there are very few.
const reserve = 256

// reserveThreads keeps all containers together from having every thread of the guest: an agent that can't have one
// more ends, and the VM with it.
func reserveThreads() error {
	most := math.MaxInt
	for _, name := range []string{"threads-max", "pid_max"} {
		text, err := os.ReadFile("/proc/sys/kernel/" + name)
		if err != nil {
			return fmt.Errorf("read the limit of threads: %w", err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return fmt.Errorf("read the limit of threads: %w", err)
		}
		most = min(most, n)
	}
	err := write(filepath.Join(parent, "pids.max"), strconv.Itoa(containersShare(most)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without the controller
		return fmt.Errorf("limit threads: %w", err)
	}
	return nil
}

// containersShare is what the containers may have of the guest's threads.
func containersShare(most int) int { return most - min(reserve, most/8) }

// delegate enables in dir's children each controller that dir has.
func delegate(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	var words []string
	for _, c := range strings.Fields(string(text)) {
		words = append(words, "+"+c)
	}
	if len(words) == 0 {
		return nil
	}
	name := filepath.Join(dir, "cgroup.subtree_control")
	if err := write(name, strings.Join(words, " ")); err == nil {
		return nil
	}
	// One that can't be enabled must not take the others with it; limits that need it will say so.
	for _, w := range words {
		_ = write(name, w)
	}
	return nil
}

// Dir is the group's directory.
func (g *Group) Dir() string { return g.dir }

// delegated lists the files of a group that its owner may write, as the kernel has them.
const delegated = "/sys/kernel/cgroup/delegate"

// Own gives the group to a user: the directory and the files by which one manages groups, not the limits.
func (g *Group) Own(uid int) error {
	files := []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}
	if text, err := os.ReadFile(delegated); err == nil {
		files = append(strings.Fields(string(text)), "")
	}
	for _, f := range files {
		err := os.Chown(filepath.Join(g.dir, f), uid, -1)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("give the cgroup to user %d: %w", uid, err)
		}
	}
	return nil
}

// Open is the directory as clone3(2) wants it.
func (g *Group) Open() (*os.File, error) {
	return os.OpenFile(g.dir, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// OpenOf is the group that process pid is in, below this one: where a container has made groups of its own, no
// process may enter their parent.
func (g *Group) OpenOf(pid int) (*os.File, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		dir := filepath.Join(mountPoint, path)
		if dir != g.dir && !strings.HasPrefix(dir, g.dir+"/") {
			break
		}
		return os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	return nil, fmt.Errorf("process %d is not in the container's cgroup", pid)
}

// Procs are the processes of the group and of all below it.
func (g *Group) Procs() ([]int, error) {
	var pids []int
	err := g.walk(func(dir string) error {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		for _, f := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	return pids, nil
}

// walk visits the group and those below it, parents first.
func (g *Group) walk(visit func(dir string) error) error {
	return filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		return visit(path)
	})
}

// Signal sends sig to every process. One that is born meanwhile may be missed, except by SIGKILL.
func (g *Group) Signal(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return g.Kill()
	}
	pids, err := g.Procs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// Kill ends every process of the group at once, frozen ones as well.
func (g *Group) Kill() error {
	if err := write(filepath.Join(g.dir, "cgroup.kill"), "1"); err != nil {
		return fmt.Errorf("kill the cgroup: %w", err)
	}
	return nil
}

// Freeze stops every process of the group and returns when they stand still.
func (g *Group) Freeze() error {
	if err := write(filepath.Join(g.dir, "cgroup.freeze"), "1"); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	if err := g.await("frozen", "1"); err != nil {
		return errors.Join(fmt.Errorf("freeze: %w", err), g.Thaw())
	}
	return nil
}

// Thaw lets them go on.
func (g *Group) Thaw() error {
	if err := write(filepath.Join(g.dir, "cgroup.freeze"), "0"); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	return nil
}

// await waits until a key of cgroup.events has the value.
func (g *Group) await(key, value string) error {
	fd, err := unix.Open(filepath.Join(g.dir, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(settleTime)
	buf := make([]byte, 256)
	for {
		n, err := unix.Pread(fd, buf, 0)
		if err != nil {
			return err
		}
		if parseFlat(string(buf[:n]))[key] == value {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("%s is not %s after %v", key, value, settleTime)
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Delete kills what is left in the group and removes it with all below it.
func (g *Group) Delete() error {
	if err := g.Kill(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := g.await("populated", "0"); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.dir, err)
	}
	var dirs []string
	err := g.walk(func(dir string) error {
		dirs = append(dirs, dir)
		return nil
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		if err = unix.Rmdir(dirs[i]); errors.Is(err, unix.ENOENT) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.dir, err)
	}
	return nil
}

// write is one write(2) to an existing file: a cgroup file takes its value whole or not at all.
func write(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
