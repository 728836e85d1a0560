package cgroup

import (
	"errors"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Signals rain on the thread that loads, as from Go's scheduler on a slow processor.
func TestDeviceProgramLoadsUnderSignals(t *testing.T) {
	program, err := deviceProgram(defaultDevices)
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, ended, stopped := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-ended:
				return
			default:
				unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
				time.Sleep(time.Microsecond) // and the loads have their chance
			}
		}
	}()
	defer func() { close(ended); <-stopped }()
	for range 500 {
		fd, err := loadProgram(encode(program), unix.BPF_PROG_TYPE_CGROUP_DEVICE, unix.BPF_CGROUP_DEVICE)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			t.Skip("loading a program of BPF: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
}
