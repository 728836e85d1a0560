// Command guest is /init of the guest in qemu_test.go. It uses each device, takes the drivers away, gives them back
// and uses the devices again. What it finds is in the file "result" of the share "files", and in what it leaves on
// the devices; then it ends the machine.
package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tree     = "/mnt/files/"
	hostCID  = 2
	hostPort = 1024
	streamed = 4 << 20
	written  = 4 << 20
	rounds   = 2
)

func main() {
	err := run()
	result := "ok"
	if err != nil {
		result = err.Error()
	}
	fmt.Println("guest:", result)
	_ = os.WriteFile(tree+"result", []byte(result), 0o644)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	for dir, typ := range map[string]string{"/dev": "devtmpfs", "/sys": "sysfs", "/proc": "proc"} {
		if err := mount(typ, dir, typ); err != nil {
			return err
		}
	}
	uptime()
	for round := range rounds {
		if err := use(round); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if round < rounds-1 {
			if err := rebind(); err != nil {
				return err
			}
		}
	}
	uptime()
	return nil
}

func uptime() {
	b, _ := os.ReadFile("/proc/uptime")
	fmt.Printf("guest: up for %s", b)
}

func mount(source, dir, typ string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, dir, typ, 0, ""); err != nil && err != unix.EBUSY {
		return fmt.Errorf("mount %s: %w", typ, err)
	}
	return nil
}

func use(round int) error {
	if err := mount("husk", "/mnt", "virtiofs"); err != nil {
		return err
	}
	return errors.Join(sockets(), files(round), disk(round))
}

// files writes the sum of "in", and a file with its sum.
func files(round int) error {
	in, err := os.ReadFile(tree + "in")
	if err != nil {
		return err
	}
	out := make([]byte, written)
	_, _ = rand.Read(out)
	for name, b := range map[string][]byte{"in.sum": sum(in), "out": out, "out.sum": sum(out)} {
		if err := os.WriteFile(fmt.Sprintf("%s%s.%d", tree, name, round), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// sockets wants back from the host what it sends.
func sockets() error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: hostCID, Port: hostPort}); err != nil {
		return fmt.Errorf("dial the host: %w", err)
	}
	f := os.NewFile(uintptr(fd), "vsock")
	defer f.Close()
	sent := make([]byte, streamed)
	_, _ = rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := f.Write(sent)
		wrote <- errors.Join(err, unix.Shutdown(fd, unix.SHUT_WR))
	}()
	got, err := io.ReadAll(f)
	if err := errors.Join(err, <-wrote); err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("%d bytes came back, and not the %d that were sent", len(got), len(sent))
	}
	return nil
}

// disk copies the first MiB of the disk behind itself, a MiB further each round.
func disk(round int) error {
	const mib = 1 << 20
	f, err := open("/dev/vda")
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, mib)
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, int64(round+1)*mib); err != nil {
		return err
	}
	return f.Sync()
}

// open waits for the device: its driver may still be looking at the disk.
func open(name string) (f *os.File, err error) {
	for range 100 {
		if f, err = os.OpenFile(name, os.O_RDWR, 0); err == nil {
			return f, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, err
}

// rebind takes the drivers from all virtio devices, and gives them back.
func rebind() error {
	if err := unix.Unmount("/mnt", 0); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	links, err := filepath.Glob("/sys/bus/virtio/devices/*/driver")
	if err != nil || len(links) != 3 {
		return fmt.Errorf("%d devices with a driver (%v)", len(links), err)
	}
	for _, link := range links {
		driver, err := filepath.EvalSymlinks(link)
		if err != nil {
			return err
		}
		device := filepath.Base(filepath.Dir(link))
		for _, what := range []string{"unbind", "bind"} {
			if err := os.WriteFile(filepath.Join(driver, what), []byte(device), 0o200); err != nil {
				return fmt.Errorf("%s %s: %w", what, device, err)
			}
		}
	}
	return nil
}
