package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

const (
	shimName = "containerd-shim"
	vmmName  = "husk-vmm"
	qemuName = "husk-qemu"
)

// victims are the processes of a sandbox on the host.
func victims() []string {
	if *backend == "qemu" {
		return []string{shimName, vmmName, qemuName}
	}
	return []string{shimName, vmmName}
}

// pidsOf lists a sandbox's processes with a name: its shim, and what descends from that. Another sandbox's, which may
// still be on its way out, are not among them.
func pidsOf(t *testing.T, sandbox, comm string) []int {
	t.Helper()
	var found []int
	for _, name := range rig.Processes(comm) {
		pid, err := strconv.Atoi(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := pid; at > 1; at = parent(at) {
			if serves(at, sandbox) {
				found = append(found, pid)
				break
			}
		}
	}
	return found
}

// boundProcesses are the sandbox's processes that belong into its cgroup.
func boundProcesses(t *testing.T, sandbox string) []int {
	t.Helper()
	return append(pidsOf(t, sandbox, vmmName), pidsOf(t, sandbox, qemuName)...)
}

// serves says whether a process is the sandbox's shim: the daemon that serves, not its short-lived start or delete.
func serves(pid int, sandbox string) bool {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	at := slices.Index(args, "-id")
	return at > 0 && at+1 < len(args) && args[at+1] == sandbox && args[len(args)-1] == "serve"
}

// parent is a process's; zero when it is gone.
func parent(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}
