package vhostuser_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/vhostuser"
	"github.com/huskvm/husk/vmm/virtio/blk"
	"github.com/huskvm/husk/vmm/virtio/fs"
	"github.com/huskvm/husk/vmm/virtio/vsock"
)

const (
	kernelEnv = "HUSK_TEST_KERNEL"
	qemu      = "qemu-system-x86_64"
	guestTime = 2 * time.Minute // how long a guest may take; nothing waits that long unless it fails
)

// TestGuestInQEMU boots a real kernel under software emulation, with the real devices behind vhost-user. The guest is
// testdata/guest. One processor leaves one of the disk's two queues unused.
func TestGuestInQEMU(t *testing.T) {
	kernel := os.Getenv(kernelEnv)
	if kernel == "" {
		t.Skipf("%s names no guest kernel (an ELF file, as made by make kernel)", kernelEnv)
	}
	if _, err := exec.LookPath(qemu); err != nil {
		t.Skip(err)
	}
	initramfs := buildInitramfs(t)
	for _, cpus := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d processors", cpus), func(t *testing.T) { bootGuest(t, kernel, initramfs, cpus) })
	}
}

func buildInitramfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	init, initramfs := filepath.Join(dir, "init"), filepath.Join(dir, "initramfs")
	for _, args := range [][]string{
		{"build", "-o", init, "./testdata/guest"},
		{"run", "github.com/huskvm/husk/guest-agent/cmd/mkinitramfs", "-init", init, "-o", initramfs},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", args[0], err, out)
		}
	}
	return initramfs
}

// served is a back end with its device, and the front end's end of the connection.
type served struct {
	*vhostuser.Backend
	front *os.File
	ended chan error
}

func serve(t *testing.T, cfg vhostuser.Config) *served {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	b, err := vhostuser.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	back, front := socketPair(t)
	s := &served{b, front, make(chan error, 1)}
	go func() { s.ended <- b.Serve(back) }()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func socketPair(t testing.TB) (*net.UnixConn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "back end")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "front end")
}

func bootGuest(t *testing.T, kernel, initramfs string, cpus int) {
	dir := t.TempDir()
	in, image := make([]byte, 16<<20), make([]byte, 4<<20)
	_, _ = rand.Read(in)
	_, _ = rand.Read(image[:1<<20])
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(files, "in"), in)
	write(t, filepath.Join(dir, "disk"), image)

	fsDevice, err := fs.New(fs.Config{Tag: "husk"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fsDevice.Close() })
	share, err := os.OpenFile(files, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := fsDevice.AddShare("files", share, false); err != nil {
		t.Fatal(err)
	}
	diskFile, err := os.OpenFile(filepath.Join(dir, "disk"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := blk.New(blk.Config{File: diskFile, Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Close() })
	host := filepath.Join(dir, "vsock")
	connected := echoAt(t, host+"_1024")

	backEnds := []*served{
		serve(t, vhostuser.Config{Device: fsDevice, OwnConfig: true}),
		serve(t, vhostuser.Config{Device: vsock.New(vsock.Config{GuestCID: 3, Host: vsock.UnixHost(host)}), Queues: 2}),
		serve(t, vhostuser.Config{Device: disk}),
	}
	args := []string{
		"-M", "microvm,acpi=off,rtc=off,memory-backend=mem", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-smp", strconv.Itoa(cpus), "-m", "256M", "-object", "memory-backend-memfd,id=mem,size=256M,share=on",
		"-global", "virtio-mmio.force-legacy=false", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-serial", "stdio", "-kernel", kernel, "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check 8250.nr_uarts=1",
	}
	for i, device := range []string{
		"vhost-user-fs-device,tag=husk,queue-size=512", "vhost-user-vsock-device", "vhost-user-blk,num-queues=2,queue-size=256",
	} {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=c%d,fd=%d", i, 3+i), "-device", fmt.Sprintf("%s,chardev=c%d", device, i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), guestTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, args...)
	var console, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &messages
	for _, b := range backEnds {
		cmd.ExtraFiles = append(cmd.ExtraFiles, b.front)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, b := range backEnds {
		_ = b.front.Close()
	}
	err = cmd.Wait()
	t.Logf("from the start of QEMU: %v to the first connection of the guest's, %v to its end",
		sinceFirst(start, connected), time.Since(start).Round(time.Millisecond))
	t.Logf("console:\n%s", console.String())
	if err != nil {
		t.Fatalf("QEMU: %v\n%s", err, messages.String())
	}
	if messages.Len() > 0 {
		t.Errorf("QEMU has something to say:\n%s", messages.String())
	}
	for i, b := range backEnds {
		if err := <-b.ended; err != nil {
			t.Errorf("back end %d: %v", i, err)
		}
	}

	if got := read(t, filepath.Join(files, "result")); string(got) != "ok" {
		t.Fatalf("guest: %s", got)
	}
	wantIn := sha256.Sum256(in)
	for round := range 2 {
		name := func(s string) string { return filepath.Join(files, fmt.Sprintf("%s.%d", s, round)) }
		if got := read(t, name("in.sum")); !bytes.Equal(got, wantIn[:]) {
			t.Errorf("round %d: the guest has read something else", round)
		}
		got := sha256.Sum256(read(t, name("out")))
		if want := read(t, name("out.sum")); !bytes.Equal(got[:], want) {
			t.Errorf("round %d: the guest has written something else", round)
		}
		copy(image[(round+1)<<20:], image[:1<<20])
	}
	if !bytes.Equal(read(t, filepath.Join(dir, "disk")), image) {
		t.Error("the disk is not as the guest has made it")
	}
}

// echoAt accepts connections at a unix socket and sends back what comes.
func echoAt(t *testing.T, name string) <-chan time.Time {
	t.Helper()
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	connected := make(chan time.Time, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connected <- time.Now()
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return connected
}

func sinceFirst(start time.Time, connected <-chan time.Time) string {
	select {
	case at := <-connected:
		return at.Sub(start).Round(time.Millisecond).String()
	default:
		return "never"
	}
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
