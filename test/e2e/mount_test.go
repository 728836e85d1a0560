package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// tree makes files below a directory of the test's: a name that ends with a slash is a directory, one with an arrow a
// symbolic link.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		var err error
		link, target, isLink := strings.Cut(n, " -> ")
		switch path := filepath.Join(dir, link); {
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(n, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte("of "+n+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: options}
}

func TestMountsOfEveryType(t *testing.T) {
	s := script(t, `m() { awk -v d=$1 '$5 == d {t = $0; sub(/.* - /, "", t); split(t, a, " "); print d, $6, a[1], a[3]}' /proc/self/mountinfo | sed 's/,relatime//; s/,inode64//'; }
		m /t; m /up; cat /up/seed; stat -c %a /t; m /shm; df -k /shm | awk 'END {print $2}'; m /mq; m /pts; m /p; m /s; m /cg; ls /cg | grep -c cgroup.procs`)
	if err := os.Mkdir(filepath.Join(s.Root.Path, "up"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Root.Path, "up/seed"), []byte("of the image\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Mounts = append(s.Mounts,
		specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/t", Options: []string{"nosuid", "noexec", "size=1m", "mode=1750"}},
		specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/up", Options: []string{"tmpcopyup", "nodev"}},
		specs.Mount{Type: "tmpfs", Source: "shm", Destination: "/shm", Options: []string{"size=3m"}},
		specs.Mount{Type: "mqueue", Source: "mqueue", Destination: "/mq", Options: []string{"ro"}},
		specs.Mount{Type: "devpts", Source: "devpts", Destination: "/pts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0600"}},
		specs.Mount{Type: "proc", Source: "proc", Destination: "/p", Options: []string{"ro", "nosuid"}},
		specs.Mount{Type: "sysfs", Source: "sysfs", Destination: "/s", Options: []string{"ro", "noexec"}},
		specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/cg", Options: []string{"ro", "nosuid", "nodev", "noexec"}},
	)
	lines(t, s,
		"/t rw,nosuid,noexec tmpfs rw,size=1024k,mode=1750", "/up rw,nodev tmpfs rw,mode=755", "of the image", "1750",
		"/shm rw tmpfs rw,size=3072k", "3072", "/mq ro mqueue rw", "/pts rw devpts rw,mode=600,ptmxmode=666",
		"/p ro,nosuid proc rw", "/s ro,noexec sysfs rw", "/cg ro,nosuid,nodev,noexec cgroup2 rw", "1")
}

func TestBindsWithEveryOption(t *testing.T) {
	host := tree(t, "plain", "sub/", "sub/inner")
	if err := syscall.Mount("tmpfs", filepath.Join(host, "sub"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(filepath.Join(host, "sub"), syscall.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(host, "sub/below"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := script(t, `ls /r/sub /b/sub; for d in /ro /rro /rw; do (touch $d/new) 2>/dev/null; echo $d $?; (touch $d/sub/new) 2>/dev/null; echo $d/sub $?; done
		awk '$5 == "/x" {print $6}' /proc/self/mountinfo | sed 's/,relatime//'; (/x/plain) 2>/dev/null; echo $?`)
	s.Mounts = append(s.Mounts,
		bind(host, "/r", "rbind"), bind(host, "/b", "bind"),
		bind(host, "/ro", "bind", "ro"), bind(host, "/rro", "rbind", "rro"), bind(host, "/rw", "rbind", "rw"),
		bind(host, "/x", "bind", "noexec", "nosuid", "nodev"))
	lines(t, s, "/b/sub:", "inner", "", "/r/sub:", "below", "/ro 1", "/ro/sub 1", "/rro 1", "/rro/sub 1", "/rw 0", "/rw/sub 0",
		"rw,nosuid,nodev,noexec", "126")
}

// Each is a descriptor that the VMM gets; a socket holds some two hundred.
func TestThreeHundredBinds(t *testing.T) {
	host := tree(t, "file")
	s := script(t, "cat /many/*/file | uniq -c | sed 's/^ *//'")
	for i := range 300 {
		s.Mounts = append(s.Mounts, bind(host, fmt.Sprintf("/many/%d", i), "bind"))
	}
	lines(t, s, "300 of file")
}

func TestMountsPropagateAsTheyAsk(t *testing.T) {
	host := tree(t, "file")
	modes := []string{"rshared", "shared", "rprivate", "private", "rslave", "slave", "runbindable", "unbindable"}
	s := script(t, `for m in `+strings.Join(modes, " ")+`; do awk -v d=/$m '$5 == d {sub(/:.*/, "", $7); print substr(d, 2), $7}' /proc/self/mountinfo; done`)
	for _, m := range modes {
		s.Mounts = append(s.Mounts, bind(host, "/"+m, "rbind", m))
	}
	// A slave of nobody is private.
	lines(t, s, "rshared shared", "shared shared", "rprivate -", "private -", "rslave -", "slave -", "runbindable unbindable", "unbindable unbindable")
}

// The kubelet mounts a volume's subPath to a place of the container's, and gives that.
func TestASubPathShowsNothingBeside(t *testing.T) {
	host := tree(t, "volume/", "volume/sub/", "volume/sub/inner", "volume/secret", "mounted/", "one")
	for source, target := range map[string]string{"volume/sub": "mounted", "volume/secret": "one"} {
		target = filepath.Join(host, target)
		if err := syscall.Mount(filepath.Join(host, source), target, "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) })
	}
	s := script(t, "ls /x/v /x; cat /x/v/inner /x/one; echo new > /x/v/new")
	if err := os.Mkdir(filepath.Join(s.Root.Path, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Mounts = append(s.Mounts, bind(host+"/mounted", "/x/v", "rbind"), bind(host+"/one", "/x/one", "rbind"))
	lines(t, s, "/x:", "one", "v", "", "/x/v:", "inner", "of volume/sub/inner", "of volume/secret")
	if _, err := os.Stat(filepath.Join(host, "volume/sub/new")); err != nil {
		t.Error(err)
	}
}

func TestMountDestinationsStayInsideTheRoot(t *testing.T) {
	host := tree(t, "file", "dir/", "dir/file")
	s := script(t, "cat /real/f /real/d/file /etc/escaped; cat /made/on/the/way /made/dir/file; ls -d /made/dir")
	for link, target := range map[string]string{"link": "/real", "up": "../../../../../../etc"} {
		if err := os.Symlink(target, filepath.Join(s.Root.Path, link)); err != nil {
			t.Fatal(err)
		}
	}
	s.Mounts = append(s.Mounts,
		bind(host+"/file", "/link/f", "bind"), bind(host+"/dir", "/link/d", "rbind"), bind(host+"/file", "/up/escaped", "bind"),
		bind(host+"/file", "/made/on/the/way", "bind"), bind(host+"/dir", "/made/dir", "rbind"))
	lines(t, s, "of file", "of dir/file", "of file", "of file", "of dir/file", "/made/dir")
	if _, err := os.Lstat("/etc/escaped"); err == nil {
		t.Error("a mount left the container's root")
	}
}

func TestFifosAndSocketsAreShared(t *testing.T) {
	host := tree(t)
	if err := syscall.Mkfifo(filepath.Join(host, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	s := script(t, "(echo through > /f/fifo) & cat /f/fifo; stat -c %F /one")
	s.Mounts = append(s.Mounts, bind(host, "/f", "rbind"), bind(host+"/fifo", "/one", "bind"))
	lines(t, s, "through", "fifo")
}

// Kubernetes replaces a configmap's files by swapping a symbolic link to a directory.
func TestAConfigMapIsSeenToChange(t *testing.T) {
	host := tree(t, "v1/", "v1/key", "v2/", "v2/key", "..data -> v1", "key -> ..data/key")
	b := start(t, []string{"--mount", "type=bind,src=" + host + ",dst=/config,options=rbind:ro"}, "sleep", "1000")
	read := func(id string) string {
		return ctr(t, "task", "exec", "--exec-id", id, b.id, "cat", "/config/key").Stdout
	}
	if got := read("before"); got != "of v1/key\n" {
		t.Errorf("got %q", got)
	}
	if err := os.Symlink("v2", filepath.Join(host, "..new")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(host, "..new"), filepath.Join(host, "..data")); err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, "the new configuration is seen", func() bool { n++; return read(newID(t)) == "of v2/key\n" })
}

func TestRootPropagation(t *testing.T) {
	for mode, want := range map[string]string{"shared": "shared:", "private": "", "rslave": "", "unbindable": "unbindable"} {
		t.Run(mode, func(t *testing.T) {
			s := script(t, `awk '$5 == "/" {print $7}' /proc/self/mountinfo`)
			s.Linux.RootfsPropagation = mode
			res := runSpec(t, s)
			if got := strings.TrimSpace(res.Stdout); res.Status != 0 || want != "" && !strings.HasPrefix(got, want) || want == "" && got != "-" {
				t.Errorf("%q: %+v", got, res)
			}
		})
	}
}

func TestAMappedMountShowsOtherOwners(t *testing.T) {
	needNewSpec(t)
	host := tree(t, "file")
	s := script(t, "stat -c %u:%g /plain/file /mapped/file")
	m := bind(host, "/mapped", "rbind", "idmap")
	m.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}
	m.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 2000, Size: 10}}
	s.Mounts = append(s.Mounts, bind(host, "/plain", "rbind"), m)
	lines(t, s, "0:0", "1000:2000")
}

// The kernel forgets the formats that were registered through a mount of binfmt_misc with the last such mount.
func TestRegisteredFormatsOutlastTheirMount(t *testing.T) {
	res := ctrRun(t, []string{"--privileged"}, "sh", "-ec", `
		mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
		echo ':husk:M::HUSK::/bin/cat:F' >/proc/sys/fs/binfmt_misc/register
		umount /proc/sys/fs/binfmt_misc
		printf 'HUSK runs\n' >/program
		chmod +x /program
		/program`)
	if res.Stdout != "HUSK runs\n" {
		t.Errorf("%+v", res)
	}
}
