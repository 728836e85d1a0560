package footprint

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheGuestsMemoryIsToldFromTheRest(t *testing.T) {
	const smaps = `00400000-00600000 r-xp 00000000 fe:00 123 /usr/bin/husk-vmm
Size:               2048 kB
Pss:                 100 kB
Pss_Dirty:            50 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Pss:                4096 kB
VmFlags: rd wr mr mw me ac dd hg
7f1000000000-7f1010000000 rw-s 00000000 00:01 5 /memfd:memory-backend-memfd (deleted)
Pss:                2048 kB
VmFlags: rd wr sh mr mw me ms
7f2000000000-7f2010000000 rw-p 00000000 00:00 0
Pss:                   8 kB
VmFlags: rd wr mr mw me ac
7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0 [vdso]
Pss:                   4 kB
VmFlags: rd ex mr mw me de dd
`
	if guest, rest := sumMappings(smaps); guest != (4096+2048)<<10 || rest != (100+8+4)<<10 {
		t.Errorf("guest %d, rest %d", guest, rest)
	}
}

func TestVCPUsAreKnownByName(t *testing.T) {
	for name, want := range map[string]int{"vcpu 0": 0, "vcpu 12": 12, "CPU 3/KVM": 3, "CPU 1/TCG": 1, "husk-vmm": -1, "IO mon_iothread": -1, "CPU x/TCG": -1} {
		n, ok := vcpuNumber(name)
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("%s: %d", name, n)
		}
	}
}

func TestAProcessesUse(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 1000 & i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if list := family(cmd.Process.Pid); len(list) != 2 {
		t.Errorf("processes %v", list)
	}
	u, err := Of(os.Getpid(), cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if u.Overhead == 0 || u.OverheadMem == 0 || u.ShimMem == 0 || u.Guest != 0 || len(u.VCPUs) != 0 {
		t.Errorf("%+v", u)
	}
}
