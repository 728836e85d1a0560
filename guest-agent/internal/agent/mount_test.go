package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestRecursiveAndPlainBinds binds a directory with a mount below it. The mount is made before the agent starts,
// which inherits it.
func TestRecursiveAndPlainBinds(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv(vmKernel) != "" {
		t.Skip("needs root, and an agent that inherits mounts of this machine")
	}
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	g := newGuest(t)
	s := g.spec("sh", "-c", `for d in plain rec ro rro; do
		grep -c " /$d/" /proc/self/mountinfo; touch /$d/below/x && echo $d is writable; done 2>/dev/null; true`)
	for d, o := range map[string][]string{"plain": {"bind"}, "rec": {"rbind"}, "ro": {"rbind", "ro"}, "rro": {"rbind", "rro"}} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/" + d, Type: "bind", Source: dir, Options: o})
	}
	if got := g.run(s); got.stdout != "0\nplain is writable\n1\nrec is writable\n1\nro is writable\n1\n" {
		t.Errorf("got %+v", got)
	}
}

func TestOptionsOfMounts(t *testing.T) {
	g := newGuest(t)
	g.file("etc/old", "old\n", 0o640)
	for _, d := range []string{"old/dir", "narrow"} {
		if err := os.MkdirAll(filepath.Join(g.root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"old/dir": 0o750, "narrow": 0o710 | os.ModeSticky} {
		if err := os.Chmod(filepath.Join(g.root, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	g.file("old/file", "text\n", 0o4711)
	if err := os.Chmod(filepath.Join(g.root, "old/file"), 0o711|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(g.root, "old/dir"), 3, 4); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(g.root, "old/link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(g.root, "old/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	tmpfs := func(dst string, options ...string) specs.Mount {
		return specs.Mount{Destination: dst, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	for _, c := range []struct {
		name   string
		mounts []specs.Mount
		script string
		want   string
	}{
		{"a tmpfs keeps the mode of what it covers", []specs.Mount{tmpfs("/narrow")}, "stat -c %a /narrow", "1710\n"},
		{"unless it is told", []specs.Mount{tmpfs("/narrow", "mode=700")}, "stat -c %a /narrow", "700\n"},
		{"or covers nothing", []specs.Mount{tmpfs("/fresh")}, "stat -c %a /fresh", "1777\n"},
		{"size", []specs.Mount{tmpfs("/x", "size=64k")}, "head -c 100000 /dev/zero > /x/f; stat -c %s /x/f", "65536\n"},
		{"tmpcopyup", []specs.Mount{tmpfs("/old", "tmpcopyup")},
			"cd /old; stat -c '%n %A %u:%g' dir file pipe link; cat link; echo new > file; cat file",
			"dir drwxr-x--- 3:4\nfile -rws--x--x 0:0\npipe prw------- 0:0\nlink lrwxrwxrwx 0:0\ntext\nnew\n"},
		{"and the covered is as it was", []specs.Mount{tmpfs("/elsewhere", "tmpcopyup")}, "cat /old/file; ls /elsewhere", "text\n"},
		{"tmpcopyup, read-only", []specs.Mount{tmpfs("/old", "tmpcopyup", "ro")}, "cat /old/file; touch /old/x 2>/dev/null || echo ro", "text\nro\n"},
		{"noexec", []specs.Mount{tmpfs("/x", "noexec")}, "grep -o ' /x [a-z,]*' /proc/self/mountinfo", " /x rw,noexec,relatime\n"},
		{"access times", []specs.Mount{tmpfs("/x", "noatime", "nodiratime")}, "grep -o ' /x [a-z,]*' /proc/self/mountinfo", " /x rw,noatime,nodiratime\n"},
		{"nosymfollow", []specs.Mount{tmpfs("/x", "nosymfollow")}, "echo t > /x/t; ln -s t /x/l; cat /x/l 2>/dev/null || echo refused", "refused\n"},
		{"sync", []specs.Mount{tmpfs("/x", "sync")}, "grep ' /x ' /proc/self/mountinfo | grep -c 'tmpfs rw,sync'", "1\n"},
		{"proc's own", []specs.Mount{{Destination: "/x", Type: "proc", Source: "proc", Options: []string{"hidepid=invisible"}}},
			"grep ' /x ' /proc/self/mountinfo | grep -c hidepid=", "1\n"},
		{"shared", []specs.Mount{tmpfs("/x", "rshared")}, "grep ' /x ' /proc/self/mountinfo | grep -c shared:", "1\n"},
		{"remount", []specs.Mount{tmpfs("/x"), {Destination: "/x", Type: "tmpfs", Options: []string{"remount", "ro", "size=128k"}}},
			"touch /x/y 2>/dev/null || grep -o ' /x .*size=128k' /proc/self/mountinfo | grep -c ' ro,'", "1\n"},
		{"remount of a bind", []specs.Mount{
			{Destination: "/x", Type: "bind", Source: g.inside(g.root) + "/etc", Options: []string{"bind"}},
			{Destination: "/x", Type: "bind", Options: []string{"remount", "bind", "ro", "nosuid"}}},
			"touch /x/y 2>/dev/null || grep -o ' /x ro,nosuid' /proc/self/mountinfo", " /x ro,nosuid\n"},
		{"flags of a file system on a bind", []specs.Mount{
			{Destination: "/x", Type: "bind", Source: g.inside(g.root) + "/etc", Options: []string{"bind", "sync", "lazytime"}}},
			"ls -d /x", "/x\n"},
		{"a file on a new path", []specs.Mount{
			{Destination: "/made/by/mount", Type: "bind", Source: g.inside(g.root) + "/etc/old", Options: []string{"bind", "ro"}}},
			"cat /made/by/mount; stat -c %a /made/by", "old\n755\n"},
		{"a destination that is not absolute", []specs.Mount{tmpfs("relative/../x")}, "ls -d /x", "/x\n"},
		{"mqueue and shm", nil, "grep -c -E ' (/dev/mqueue|/dev/shm) ' /proc/self/mountinfo; grep -o ' /dev/shm .*size=65536k' /proc/self/mountinfo | grep -c tmpfs", "2\n1\n"},
	} {
		s := g.spec("sh", "-c", c.script)
		s.Mounts = append(s.Mounts, c.mounts...)
		if got := g.run(s); got.stdout != c.want {
			t.Errorf("%s: got %+v, want %q", c.name, got, c.want)
		}
	}
}

func TestPropagationOfTheRoot(t *testing.T) {
	g := newGuest(t)
	for mode, want := range map[string]string{
		"shared": "shared:", "rshared": "shared:", "private": "", "rprivate": "", "unbindable": "unbindable", "": "",
	} {
		s := g.spec("sh", "-c", "grep ' / / ' /proc/self/mountinfo || grep ' / [a-z]' /proc/self/mountinfo")
		s.Linux.RootfsPropagation = mode
		got := g.run(s)
		line, _, _ := strings.Cut(got.stdout, " - ")
		if !strings.Contains(line, want) || want == "" && (strings.Contains(line, "shared:") || strings.Contains(line, "unbindable")) {
			t.Errorf("%s: got %+v", mode, got)
		}
	}
	s := g.spec("true")
	s.Linux.RootfsPropagation = "sideways"
	_, err := g.create(s)
	mustFail(t, err, `rootfsPropagation "sideways"`)
}

func TestDevicesAreMadeAsDescribed(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "stat -c '%n %F %t:%T %a %u:%g' /dev/own /dev/null /dev/sub/pipe /dev/block; test -c /dev/pts/ptmx && readlink /dev/ptmx")
	mode := func(m os.FileMode) *os.FileMode { return &m }
	s.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/own", Type: "c", Major: 1, Minor: 5, FileMode: mode(0o640), UID: new(uint32(7)), GID: new(uint32(8))},
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: mode(0o600), UID: new(uint32(9))},
		{Path: "/dev/sub/pipe", Type: "p", FileMode: mode(0o622)},
		{Path: "/dev/block", Type: "b", Major: 7, Minor: 3},
		{Path: "/dev/ptmx", Type: "c", Major: 5, Minor: 2},
	}
	want := `/dev/own character special file 1:5 640 7:8
/dev/null character special file 1:3 600 9:0
/dev/sub/pipe fifo 0:0 622 0:0
/dev/block block special file 7:3 666 0:0
pts/ptmx
`
	if got := g.run(s); got.stdout != want {
		t.Errorf("got %+v", got)
	}
}

// TestAnImageCanNotRedirectMasksOrTheConsole: CVE-2025-31133 and CVE-2025-52565, where what the runtime takes for
// the null device or a terminal is the container's.
func TestAnImageCanNotRedirectMasksOrTheConsole(t *testing.T) {
	g := newGuest(t)
	g.file("secret", "text\n", 0o644)
	g.file("victim", "", 0o644)
	for link, target := range map[string]string{"dev/console": "../victim", "dev/null": "../secret"} {
		if err := os.Symlink(target, filepath.Join(g.root, link)); err != nil {
			t.Fatal(err)
		}
	}
	s := g.spec("sh", "-c", "cat /masked; stat -c %F /masked; echo safe > /dev/console; cat /victim; readlink /dev/console; true")
	g.file("masked", "hidden\n", 0o644)
	s.Linux.MaskedPaths = []string{"/masked"}
	s.Process.Terminal = true
	// Without a tmpfs on it, the image's /dev is the container's.
	s.Mounts = append(s.Mounts[:1], specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
		Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}})
	c, err := g.create(s)
	if err != nil {
		// Refusing such an image is an answer as well, if it names the thing.
		mustFail(t, err, "/dev/console")
		return
	}
	got := c.finish()
	if strings.Contains(got.stdout, "hidden") || !strings.HasPrefix(got.stdout, "character special file\r\n") {
		t.Errorf("got %+v", got)
	}
}

// TestSysctlsIgnoreTheContainersProc is CVE-2025-52881: what is written goes through the guest's own /proc.
func TestSysctlsIgnoreTheContainersProc(t *testing.T) {
	g := newGuest(t)
	fake := filepath.Join(g.dir, "fake")
	if err := os.MkdirAll(filepath.Join(fake, "sys/net/ipv4"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(fake, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"sys/net/ipv4/ip_default_ttl", "self/oom_score_adj"} {
		if err := os.WriteFile(filepath.Join(fake, f), []byte("untouched\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := g.spec("cat", "/proc/sys/net/ipv4/ip_default_ttl", "/proc/self/oom_score_adj", "/real/sys/net/ipv4/ip_default_ttl")
	s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: g.inside(fake), Options: []string{"rbind"}}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/real", Type: "proc", Source: "proc"})
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_default_ttl": "78"}
	s.Process.OOMScoreAdj = new(100)
	if got := g.run(s); got.stdout != "untouched\nuntouched\n78\n" {
		t.Errorf("got %+v", got)
	}
}

func TestPersonality(t *testing.T) {
	g := newGuest(t)
	s := g.spec("sh", "-c", "cat /proc/self/personality")
	s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	if got := g.run(s); got.stdout != "00000008\n" {
		t.Errorf("got %+v", got)
	}
	s.Linux.Personality.Domain = "BSD"
	_, err := g.create(s)
	mustFail(t, err, `"BSD"`)
}
