package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/host/internal/wire"
)

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	optional               bool
}

const (
	noExecFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

	// 9p moves pieces of this size, which is the most that virtio can; the default makes big binaries crawl.
	p9Options = "trans=virtio,version=9p2000.L,msize=512000"
)

func (m mount) mount() error {
	err := os.MkdirAll(m.target, 0o755)
	if err == nil {
		err = unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	}
	if err != nil && !m.optional {
		return fmt.Errorf("mount %s at %s: %w", m.fstype, m.target, err)
	}
	return nil
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

// mountEarly mounts what Boot needs in the initramfs; enterRoot takes these along.
func mountEarly() error {
	return mountAll([]mount{
		{source: "devtmpfs", target: "/dev", fstype: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=755"},
		{source: "proc", target: "/proc", fstype: "proc", flags: noExecFlags},
		{source: "sysfs", target: "/sys", fstype: "sysfs", flags: noExecFlags},
	})
}

// enterRoot makes the machine's own / the root: over 9p and read-only, below an overlay whose changes are in memory.
func enterRoot(spec *wire.Spec) error {
	const root = "/root"
	err := mountAll([]mount{
		{source: spec.RootTag, target: "/lower", fstype: "9p", flags: unix.MS_RDONLY, data: p9Options + ",cache=loose"},
		{source: "tmpfs", target: "/upper", fstype: "tmpfs", data: "mode=755"},
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{"/upper/changes", "/upper/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("prepare overlay: %w", err)
		}
	}
	overlay := mount{
		source: "overlay", target: root, fstype: "overlay",
		data: "lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work",
	}
	if err := overlay.mount(); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		target := root + dir
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("prepare root: %w", err)
		}
		if err := unix.Mount(dir, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the root: %w", dir, err)
		}
	}
	// The first root of a kernel can be neither unmounted nor pivoted away from, so the new one is moved over it.
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return os.Chdir("/")
}

// Directories that container runtimes want on a real file system: an overlay can't have its upper layer on an overlay.
var freshDirs = []string{
	"/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/kubelet", "/var/lib/husk", TempDir,
}

// TempDir is the TMPDIR of the command: short, so that socket paths fit, and a tmpfs. /tmp itself stays the machine's.
const TempDir = "/run/tmp"

// mountFresh mounts all that must not be the machine's.
func mountFresh() error {
	tmpfs := func(target, mode string, flags uintptr) mount {
		return mount{source: "tmpfs", target: target, fstype: "tmpfs", flags: flags, data: "mode=" + mode}
	}
	mounts := []mount{
		tmpfs("/run", "755", unix.MS_NOSUID|unix.MS_NODEV),
		tmpfs("/dev/shm", "1777", unix.MS_NOSUID|unix.MS_NODEV),
		{
			source: "devpts", target: "/dev/pts", fstype: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC,
			data: "gid=5,mode=620,ptmxmode=666",
		},
		kernelFS("mqueue", "/dev/mqueue"),
		kernelFS("securityfs", "/sys/kernel/security"),
		kernelFS("debugfs", "/sys/kernel/debug"),
		kernelFS("tracefs", "/sys/kernel/tracing"),
		kernelFS("bpf", "/sys/fs/bpf"),
		kernelFS("fusectl", "/sys/fs/fuse/connections"),
	}
	for _, dir := range freshDirs {
		mode := "711"
		if dir == TempDir {
			mode = "1777"
		}
		mounts = append(mounts, tmpfs(dir, mode, 0))
	}
	if err := mountAll(mounts); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/lock", 0o1777); err != nil {
		return fmt.Errorf("make /run/lock: %w", err)
	}
	links := map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
	for name, target := range links {
		if err := os.Symlink(target, "/dev/"+name); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	// As on any host that systemd has booted: mounts are shared unless said otherwise.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// kernelFS is a view of the kernel that programs look for and can do without.
func kernelFS(fstype, target string) mount {
	return mount{source: fstype, target: target, fstype: fstype, flags: noExecFlags, optional: true}
}

func mountShares(shares []wire.Share) error {
	for _, s := range shares {
		m := mount{source: s.Tag, target: s.Mountpoint, fstype: "9p", data: p9Options}
		if s.Writable {
			m.data += ",cache=mmap" // the least that allows shared mappings; writes go through
		} else {
			m.data += ",cache=loose"
			m.flags = unix.MS_RDONLY
		}
		if err := m.mount(); err != nil {
			return fmt.Errorf("share %s: %w", s.Tag, err)
		}
	}
	return nil
}

// unmountShares writes out and detaches every writable 9p mount.
func unmountShares() {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return
	}
	defer f.Close()
	var targets []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 3 && fields[2] == "9p" && strings.HasPrefix(fields[3], "rw") {
			targets = append(targets, filepath.Clean(fields[1]))
		}
	}
	for _, target := range targets {
		if err := unix.Unmount(target, 0); err != nil {
			fmt.Fprintf(os.Stderr, "husk test host: unmount %s: %v\n", target, err)
		}
	}
}
