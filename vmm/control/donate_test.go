package control

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/vmm/client"
	"github.com/huskvm/husk/vmm/marks"
)

// TestMain has this binary be a VMM for the client in it.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		err := Serve(os.NewFile(3, "control"), os.NewFile(4, "donor"), &marks.List{}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// start returns a VMM that has not booted. What hangs with it is let go after a while.
func start(t *testing.T) *client.VMM {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("new namespaces need root")
	}
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	v, err := client.Start(t.Context(), client.Command{Path: path, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(30*time.Second, func() { _ = v.Kill() })
	t.Cleanup(func() {
		guard.Stop()
		_ = v.Kill()
		<-v.Done()
	})
	return v
}

func donate(t *testing.T, v *client.VMM, f *os.File) uint32 {
	t.Helper()
	token, err := v.Donate(f)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// open counts the VMM's descriptors of a file.
func open(t *testing.T, v *client.VMM, path string) (n int) {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", v.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if target, err := os.Readlink(fd); err == nil && target == path {
			n++
		}
	}
	return n
}

func temporary(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestMoreFilesAreDonatedThanASocketHolds(t *testing.T) {
	const files = 600
	v, f := start(t), temporary(t)
	for range files {
		donate(t, v, f)
	}
	for end := time.Now().Add(20 * time.Second); open(t, v, f.Name()) != files; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d files have come", open(t, v, f.Name()), files)
		}
	}
}

func TestADescriptorIsTakenOnceAndTheOldestIsDropped(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	d, err := NewDonations(os.NewFile(uintptr(fds[1]), "donor"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := 1; i <= maxUnclaimed+1; i++ {
		if err := unix.Sendmsg(fds[0], []byte(strconv.Itoa(i)), unix.UnixRights(fds[0]), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, token := range []uint32{maxUnclaimed + 1, 2} {
		f, err := d.Take(token)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	for _, token := range []uint32{1, 2, maxUnclaimed + 2} {
		if f, err := d.Take(token); err == nil {
			t.Errorf("token %d gives %s", token, f.Name())
		}
	}
	if f, err := d.Take(0); f != nil || err != nil {
		t.Errorf("no token gives %v, error %v", f, err)
	}
}

func TestARefusedRequestLeavesNoDescriptor(t *testing.T) {
	v, f := start(t), temporary(t)
	fd := func() uint32 { return donate(t, v, f) }
	const missing = 1 << 20
	for name, request := range map[string]func() error{
		"AddShare before Boot": func() error {
			_, err := v.API().AddShare(t.Context(), &vmmv1.AddShareRequest{Share: &vmmv1.Share{Name: "a", Fd: fd()}})
			return err
		},
		"AddDisk before Boot": func() error {
			_, err := v.API().AddDisk(t.Context(), &vmmv1.AddDiskRequest{Disk: &vmmv1.Disk{Serial: "a", Fd: fd()}})
			return err
		},
		"Boot with a file that was not donated": func() error {
			_, err := v.API().Boot(t.Context(), &vmmv1.BootRequest{
				Vcpus: 1, MemoryBytes: 64 << 20, Kernel: fd(), Initramfs: missing,
				Vsock:   &vmmv1.Vsock{GuestCid: 3, Directory: fd()},
				Shares:  []*vmmv1.Share{{Name: "a", Fd: fd()}},
				Disks:   []*vmmv1.Disk{{Serial: "a", Fd: fd()}},
				Nics:    []*vmmv1.NIC{{Taps: []uint32{fd(), fd()}}},
				Console: &vmmv1.Console{Output: fd()},
			})
			return err
		},
	} {
		if err := request(); err == nil {
			t.Errorf("%s is carried out", name)
		}
		if n := open(t, v, f.Name()); n != 0 {
			t.Errorf("%s leaves %d descriptors", name, n)
		}
	}
}
