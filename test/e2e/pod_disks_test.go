package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// onDisk are the flags of a container of a pod whose root is a disk.
func onDisk(kind, pod string) []string {
	return []string{
		"--snapshotter", "blockfile",
		"--annotation", "io.kubernetes.cri.container-type=" + kind, "--annotation", "io.kubernetes.cri.sandbox-id=" + pod,
	}
}

// podOnDisks starts a pod whose own root is a disk.
func podOnDisks(t *testing.T, flags []string) *background {
	t.Helper()
	pod := &background{id: newID(t), done: make(chan struct{})}
	flags = append(flags, onDisk("sandbox", pod.id)...)
	pod.launch(t, shared.Ctr(t.Context(), rig.RunArgs(pod.id, flags, "sleep", "1000")...))
	pod.awaitStart(t)
	return pod
}

// A pod's containers come with their disks and go with them, one after the other in the same device.
func TestDisksOfAPodComeAndGo(t *testing.T) {
	needSnapshotter(t, "blockfile")
	before := census(t)
	pod := podOnDisks(t, withConfigFlags(t, configuration("spare_disks = 2\n")))
	one := start(t, onDisk("container", pod.id), "sleep", "1000")
	for round := range 3 {
		res := ctrRun(t, onDisk("container", pod.id), "sh", "-c",
			"awk '$2 == \"/\" {print $1, $3}' /proc/mounts; ls /file; echo kept > /file; sync; cat /file; exit 7")
		if res.Status != 7 || !strings.HasPrefix(res.Stdout, "/dev/vd") || !strings.HasSuffix(res.Stdout, " ext4\nkept\n") {
			t.Errorf("round %d: %+v", round, res)
		}
	}
	two := start(t, onDisk("container", pod.id), "sleep", "1000")
	if res := ctrRun(t, onDisk("container", pod.id), "true"); res.Status == 0 || !strings.Contains(res.Stderr, "spare_disks") {
		t.Errorf("a third disk: %+v", res)
	}
	for i, c := range []*background{one, two} {
		c.exec(t, "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=4 2>/dev/null; echo "+c.id+" > /id; sync")
		if got := c.exec(t, "cat", "/id"); got != c.id+"\n" {
			t.Errorf("container %d reads %q", i, got)
		}
	}
	one.end(t)
	two.end(t)
	pod.end(t)
	before.Expect(t)
}

func TestKilledPodOnDisksLeavesNothing(t *testing.T) {
	needSnapshotter(t, "blockfile")
	for _, victim := range victims() {
		t.Run(victim, func(t *testing.T) {
			before := census(t)
			pod := podOnDisks(t, nil)
			member := start(t, onDisk("container", pod.id), "sh", "-c", "while :; do echo line >> /file; sync; done")
			for _, pid := range pidsOf(t, pod.id, victim) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			for _, c := range []*background{member, pod} {
				c.wait(t)
				_ = shared.Ctr(testContext(t), "task", "rm", "-f", c.id).Run()
			}
			before.Expect(t)
		})
	}
}
