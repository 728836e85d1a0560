package jail

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestMain is also the process that goes to jail.
func TestMain(m *testing.M) {
	if os.Getenv("HUSK_JAIL_TEST") == "" {
		os.Exit(m.Run())
	}
	dir, err := os.Open(os.Getenv("HUSK_JAIL_TEST"))
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	status, err := os.Open("/proc/self/status")
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	if err := Enter(dir); err != nil {
		fmt.Println("enter:", err)
		os.Exit(1)
	}
	for _, path := range []string{"/etc/passwd", "/proc/self/status", "/dev/null"} {
		if f, err := os.Open(path); err == nil {
			fmt.Println("opened", f.Name())
		}
	}
	if err := os.WriteFile("/new", nil, 0o600); err == nil {
		fmt.Println("wrote /new")
	}
	if _, err := os.Stat("inside"); err != nil {
		fmt.Println("working directory:", err)
	}
	buf := make([]byte, 8192)
	n, _ := status.Read(buf)
	for line := range strings.Lines(string(buf[:n])) {
		if strings.HasPrefix(line, "CapEff") || strings.HasPrefix(line, "NoNewPrivs") {
			fmt.Print(line)
		}
	}
	os.Exit(0)
}

func TestJailedProcessOpensNothingAndKeepsFewCapabilities(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a mount namespace needs root")
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/inside", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"HUSK_JAIL_TEST=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "operation not supported") {
		t.Skip("this test is built with cgo (-race), where Go cannot make a call in all threads; husk-vmm is not")
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := string(out), "CapEff:\t000000008000001b\nNoNewPrivs:\t1\n"; got != want {
		t.Errorf("the prisoner says:\n%swant:\n%s", got, want)
	}
}

func TestJailNeedsAMountNamespace(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"HUSK_JAIL_TEST=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no mount namespace of its own") {
		t.Errorf("%v: %s", err, out)
	}
}
