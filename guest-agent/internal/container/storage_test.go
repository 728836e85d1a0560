package container

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestADiskIsReleasedWhenNobodyHasItMounted in a copy of the mounts either, as every new mount namespace begins with.
func TestADiskIsReleasedWhenNobodyHasItMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	image, target := filepath.Join(dir, "image"), filepath.Join(dir, "target")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 8<<20), os.Mkdir(target, 0o700)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Skipf("needs a file system: %v: %s", err, out)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	device := strings.TrimSpace(string(out))
	if err != nil {
		t.Skipf("needs a loop device: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	if err := unix.Mount(device, target, "ext4", 0, ""); err != nil {
		t.Skipf("needs ext4: %v", err)
	}
	other := exec.Command("cat")
	other.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	hold, err := other.StdinPipe()
	if err == nil {
		err = other.Start()
	}
	if err := errors.Join(err, unix.Unmount(target, 0)); err != nil {
		t.Fatal(err)
	}
	if err := awaitRelease(device, 50*time.Millisecond); !errors.Is(err, unix.EBUSY) {
		t.Errorf("while another has it: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { hold.Close() })
	if err := awaitRelease(device, 20*time.Second); err != nil {
		t.Errorf("then: %v", err)
	}
	_ = other.Wait()
}
