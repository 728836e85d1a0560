package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// shim is what engines start.
const shim = "containerd-shim-husk-v2"

// programs are what makes one version of husk, and linked those of them that are on the PATH.
var (
	programs = []string{shim, "husk", "husk-vmm", "husk-net", "husk-kernel", "husk-initramfs"}
	linked   = programs[:2]
)

// find looks for a program in a build's bin/, or as `make install` lays it out.
func find(from, name string) (string, error) {
	for _, dir := range []string{".", "../lib/husk", "../share/husk"} {
		path := filepath.Join(from, dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not in %s, nor in lib/husk or share/husk beside it: %w", name, from, fs.ErrNotExist)
}

// installPrograms copies what is in from, and makes it what the next sandbox is started with.
func (n *Node) installPrograms(from string) error {
	sum := sha256.New()
	var sources []string
	for _, name := range programs {
		path, err := find(from, name)
		if err != nil {
			return err
		}
		sources = append(sources, path)
		if err := digest(sum, path); err != nil {
			return err
		}
	}
	version := hex.EncodeToString(sum.Sum(nil)[:6])
	dir := filepath.Join(n.lib(), version)
	if _, err := os.Stat(dir); err == nil {
		n.say("%s is there", dir)
	} else if err := n.copyAll(sources, dir); err != nil {
		return err
	}
	for _, name := range linked {
		if err := n.link(version, name); err != nil {
			return err
		}
	}
	return nil
}

func digest(sum io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read husk's program: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// copyAll makes dir of the programs in one step.
func (n *Node) copyAll(sources []string, dir string) (err error) {
	temporary, err := os.MkdirTemp(n.lib(), ".new-")
	if err != nil {
		return fmt.Errorf("make a directory for husk's programs: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temporary))
		}
	}()
	for i, source := range sources {
		if err := copyFile(source, filepath.Join(temporary, programs[i])); err != nil {
			return err
		}
	}
	if err := os.Chmod(temporary, 0o755); err != nil {
		return fmt.Errorf("open up husk's directory: %w", err)
	}
	if err := os.Rename(temporary, dir); err != nil {
		return fmt.Errorf("name husk's directory: %w", err)
	}
	n.say("copied husk to %s", dir)
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("read husk's program: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("write husk's program: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}

// link makes PREFIX/bin/NAME the version's. The link is relative, as the root may be seen from somewhere else.
func (n *Node) link(version, name string) error {
	link, target := n.path(n.prefix(), "bin", name), filepath.Join("../lib/husk", version, name)
	if now, err := os.Readlink(link); err == nil && now == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	temporary := link + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s: %w", link, err)
	}
	if err := os.Symlink(target, temporary); err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	if err := os.Rename(temporary, link); err != nil {
		return fmt.Errorf("link %s: %w", link, err)
	}
	n.say("%s is now %s", link, target)
	return nil
}

var versionName = regexp.MustCompile(`^[0-9a-f]{12}$|^\.new-`)

// versions are the directories of all that is installed, and of what was begun to be.
func (n *Node) versions() (dirs []string, err error) {
	entries, err := os.ReadDir(n.lib())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list husk's versions: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && versionName.MatchString(e.Name()) {
			dirs = append(dirs, filepath.Join(n.lib(), e.Name()))
		}
	}
	return dirs, nil
}

// prune removes the versions that are neither linked nor run by any process.
func (n *Node) prune() error {
	dirs, err := n.versions()
	if err != nil {
		return err
	}
	current, err := os.Stat(n.path(n.prefix(), "bin", shim))
	if err != nil {
		return fmt.Errorf("look at the shim: %w", err)
	}
	for _, dir := range dirs {
		if now, err := os.Stat(filepath.Join(dir, shim)); err == nil && os.SameFile(now, current) {
			continue
		}
		if running(dir) {
			n.say("%s stays, for what runs from it", dir)
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an old version: %w", err)
		}
		n.say("removed %s", dir)
	}
	return nil
}

// running says whether a process was started from dir. Files are compared, not their names, which may be other ones in
// the processes' mount namespaces.
func running(dir string) bool {
	var files []os.FileInfo
	for _, name := range programs {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			files = append(files, info)
		}
	}
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		info, err := os.Stat(exe)
		if err != nil {
			continue
		}
		for _, f := range files {
			if os.SameFile(f, info) {
				return true
			}
		}
	}
	return false
}

// removePrograms takes away what installPrograms put there.
func (n *Node) removePrograms() error {
	for _, name := range linked {
		link := n.path(n.prefix(), "bin", name)
		if _, err := os.Readlink(link); err != nil {
			continue // `make install` has it, or nobody
		}
		if err := os.Remove(link); err != nil {
			return fmt.Errorf("remove husk: %w", err)
		}
	}
	dirs, err := n.versions()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove husk: %w", err)
		}
	}
	_ = os.Remove(n.lib()) // where nothing else is
	n.say("removed husk from %s", n.prefix())
	return nil
}
