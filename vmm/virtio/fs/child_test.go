package fs

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const childDirs = "HUSK_FS_CHILD"

// child runs one of the tests of TestChild in a process of its own. What maps files of a share must not be in the
// process that serves them: a thread that waits for a page holds up the collector of garbage, and that everyone.
func child(t *testing.T, name string, dirs ...string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestChild$/^"+name+"$", "-test.v")
	cmd.Env = append(os.Environ(), childDirs+"="+strings.Join(dirs, string(filepath.ListSeparator)))
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestChild/"+name)) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestChild(t *testing.T) {
	if os.Getenv(childDirs) == "" {
		t.Skip("a part of other tests")
	}
	dirs := filepath.SplitList(os.Getenv(childDirs))
	t.Run("Polled", func(t *testing.T) { polled(t, dirs) })
	t.Run("RandomWrites", func(t *testing.T) { randomWrites(t, dirs) })
	t.Run("MappedPagesOfAnAppendingFile", func(t *testing.T) { mapAppending(t, dirs) })
}

// polled makes the kernel ask for FUSE_POLL and never again: os.Open's way to the poller is as bad a place to wait
// as a page is.
func polled(t *testing.T, dirs []string) {
	fd, err := unix.Open(dirs[0]+"/.polled", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		t.Error(err)
	}
}

// mapAppending writes mapped pages of a file that is open for appending: they go where they belong.
func mapAppending(t *testing.T, dirs []string) {
	fd, err := unix.Open(dirs[0]+"/map", unix.O_RDWR|unix.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	mem[0], mem[8191] = '<', '>'
	if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
		t.Error(err)
	}
}

// randomWrites does random things to a file and to a model of it.
func randomWrites(t *testing.T, dirs []string) {
	guest, host := dirs[0], dirs[1]
	const size = 300 << 10
	f, err := os.OpenFile(guest+"/f", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	var model []byte
	fit := func(n int) {
		if n > len(model) {
			model = append(model, make([]byte, n-len(model))...)
		}
	}
	for i := range 1500 {
		off, n := rnd.IntN(size), rnd.IntN(40<<10)+1
		switch rnd.IntN(8) {
		case 0, 1, 2:
			p := bytes.Repeat([]byte{byte(i)}, n)
			if _, err := f.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
			fit(off + n)
			copy(model[off:], p)
		case 3:
			if err := f.Truncate(int64(off)); err != nil {
				t.Fatal(err)
			}
			fit(off)
			model = model[:off:off]
		case 4:
			mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
			if err := unix.Fallocate(int(f.Fd()), mode, int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
			if off < len(model) {
				clear(model[off:min(off+n, len(model))])
			}
		case 5:
			if len(model) == 0 {
				continue
			}
			mem, err := unix.Mmap(int(f.Fd()), 0, len(model), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(mem, model) {
				t.Fatalf("seed %d, step %d: mapped data differs", seed, i)
			}
			at := rnd.IntN(len(model))
			mem[at], model[at] = byte(i), byte(i)
			_ = unix.Munmap(mem)
		case 6:
			p := make([]byte, n)
			k, err := f.ReadAt(p, int64(off))
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			want := model[min(off, len(model)):min(off+n, len(model))]
			if !bytes.Equal(p[:k], want) {
				t.Fatalf("seed %d, step %d: %d bytes at %d differ from the %d wanted", seed, i, k, off, len(want))
			}
		case 7:
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			if get(t, host+"/f") != string(model) {
				t.Fatalf("seed %d, step %d: the host sees something else", seed, i)
			}
		}
	}
}
