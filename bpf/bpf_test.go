package bpf

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// As a C compiler lays the bit fields out: __u8 dst_reg:4, src_reg:4.
func TestRegistersAreInTheOrderOfTheKernelsBitFields(t *testing.T) {
	program := []Instruction{{Registers: 5 | 1<<4}}
	want := map[string]uint8{"s390x": 0x51}[runtime.GOARCH]
	if want == 0 {
		want = 0x15 // every other architecture husk runs on is little-endian
	}
	if got := encode(program)[0].Registers; got != want {
		t.Errorf("got %#x, want %#x", got, want)
	}
	if program[0].Registers != 0x15 {
		t.Error("encode changed the program")
	}
}

// Signals rain on the thread that has a program checked, as from Go's scheduler on a slow processor.
func TestAProgramIsCheckedUnderSignals(t *testing.T) {
	program := append(slices.Repeat([]Instruction{Op(MoveImm, 0, 0, 1)}, 100), Op(Exit, 0, 0, 0))
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
				time.Sleep(time.Microsecond) // and the checks have their chance
			}
		}
	}()
	defer func() { close(ended); <-stopped }()
	for range 500 {
		fd, err := Check(program, unix.BPF_PROG_TYPE_CGROUP_DEVICE, unix.BPF_CGROUP_DEVICE)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			t.Skip("a program of BPF: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
}

func TestWhatAProgramMustNotDoIsRefused(t *testing.T) {
	fd, err := Check([]Instruction{Op(Load, 0|2<<4, 0, 0), Op(Exit, 0, 0, 0)}, unix.BPF_PROG_TYPE_CGROUP_DEVICE, unix.BPF_CGROUP_DEVICE)
	if err == nil {
		unix.Close(fd)
		t.Error("a register that nothing was put into is read")
	}
}
