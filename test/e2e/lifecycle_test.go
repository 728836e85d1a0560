package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestKilledWhileRunningIs137AndLeavesNothing(t *testing.T) {
	for _, victim := range victims() {
		t.Run(victim, func(t *testing.T) {
			before := census(t)
			events := watchEvents(t)
			b := start(t, nil, "sleep", "1000")
			for _, pid := range pidsOf(t, b.id, victim) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			// With the shim gone, containerd breaks ctr's own wait off; the status is in the event.
			if res := b.wait(t); res.Status != 137 && (victim != shimName || res.Status == 0) {
				t.Errorf("status %d: %s", res.Status, res.Stderr)
			}
			eventually(t, "the exit is told", func() bool {
				_, ok := events.exit(b.id)
				return ok
			})
			if status, _ := events.exit(b.id); status != 137 {
				t.Errorf("the exit event says %d", status)
			}
			// ctr run --rm could not remove what it had lost.
			_ = shared.Ctr(testContext(t), "task", "rm", "-f", b.id).Run()
			before.Expect(t)
			expectNoUnits(t)
		})
	}
}

// startTakes is the time from the shim's first sight to the end of a container that does nothing.
func startTakes(t *testing.T) time.Duration {
	t.Helper()
	b := launch(t, nil, "true")
	eventually(t, "a shim is there", func() bool { return len(pidsOf(t, b.id, shimName)) > 0 })
	begin := time.Now()
	b.wait(t)
	return time.Since(begin)
}

// The moments are spread over the whole start, from the victim's first instruction on.
func TestKilledDuringCreateLeavesNothing(t *testing.T) {
	rounds := max(3, *inARow/8)
	whole := startTakes(t)
	for _, victim := range victims() {
		for i := range rounds {
			t.Run(fmt.Sprintf("%s at %d of %d", victim, i, rounds), func(t *testing.T) {
				moment := whole * time.Duration(i) / time.Duration(rounds)
				before := census(t)
				b := launch(t, nil, "sleep", "1000")
				eventually(t, victim+" is there", func() bool { return len(pidsOf(t, b.id, victim)) > 0 })
				time.Sleep(moment)
				for _, pid := range pidsOf(t, b.id, victim) {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
				if res := b.wait(t); res.Status == 0 {
					t.Errorf("ctr run says that all went well")
				}
				if victim == shimName {
					// containerd deletes what it has a connection to. A shim that ends before that is the
					// next one's to clean up after.
					ctrRun(t, nil, "true")
				}
				before.Expect(t)
			})
		}
	}
}

func TestContainerOutlivesContainerd(t *testing.T) {
	before := census(t)
	id := detached(t, "sh", "-c", "trap 'exit 44' TERM; sleep 1000 & wait")
	if err := shared.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := shared.Launch(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if got := taskStatus(t, id); got != "RUNNING" {
		t.Fatalf("after containerd's restart the task is %q", got)
	}
	if res := ctr(t, "task", "exec", "--exec-id", "after", id, "echo", "alive"); res.Stdout != "alive\n" {
		t.Errorf("%+v", res)
	}
	ctr(t, "task", "kill", "-s", "SIGTERM", id)
	eventually(t, "task is stopped", func() bool { return taskStatus(t, id) == "STOPPED" })
	out, err := shared.Ctr(testContext(t), "task", "rm", id).CombinedOutput()
	if !strings.Contains(fmt.Sprint(string(out), err), "44") { // an old ctr exits with it, a new one prints it
		t.Errorf("task rm says %v: %s, want the status 44", err, out)
	}
	ctr(t, "container", "rm", id)
	before.Expect(t)
}

func TestExitWhileContainerdIsDownIsDelivered(t *testing.T) {
	before := census(t)
	id := detached(t, "sh", "-c", "sleep 3; exit 45")
	if err := shared.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // the point of the test: the exit happens with nobody there
	if err := shared.Launch(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "task is stopped", func() bool { return taskStatus(t, id) == "STOPPED" })
	out, err := shared.Ctr(testContext(t), "task", "rm", id).CombinedOutput()
	if !strings.Contains(fmt.Sprint(string(out), err), "45") {
		t.Errorf("task rm says %v: %s, want the status 45", err, out)
	}
	ctr(t, "container", "rm", id)
	before.Expect(t)
}

func TestContainerdKilledDuringCreateLeavesNothing(t *testing.T) {
	before := census(t)
	b := launch(t, nil, "sleep", "1000")
	eventually(t, "a VMM is there", func() bool { return len(pidsOf(t, b.id, vmmName)) > 0 })
	if err := shared.Kill(); err != nil {
		t.Fatal(err)
	}
	<-b.done
	if err := shared.Launch(testContext(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	_ = shared.Ctr(ctx, "task", "rm", "-f", b.id).Run()
	_ = shared.Ctr(ctx, "container", "rm", b.id).Run()
	before.Expect(t)
}

func TestPidIsAliveThenGone(t *testing.T) {
	b := start(t, nil, "sleep", "1000")
	pid, err := strconv.Atoi(taskPID(t, b.id))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("pid %d of a running task: %v", pid, err)
	}
	ctr(t, "task", "kill", "-s", "SIGKILL", b.id)
	b.wait(t)
	eventually(t, fmt.Sprintf("pid %d is gone", pid), func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}

func TestGuestPanicIs255WithTheConsoleInTheLog(t *testing.T) {
	before := census(t)
	b := start(t, []string{"--privileged"}, "sh", "-c", "sleep 1; echo c > /proc/sysrq-trigger; sleep 1000")
	begin := time.Now()
	res := b.wait(t)
	if res.Status != 255 {
		t.Errorf("status %d: %s", res.Status, res.Stderr)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %s to notice", took)
	}
	log, err := os.ReadFile(shared.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "Kernel panic") {
		t.Error("the console's tail is not in the log")
	}
	before.Expect(t)
}

// Whoever hangs in its guest is ended with it.
func TestSIGKILLEndsAGuestThatHangs(t *testing.T) {
	onlyOn(t, "qemu")
	t.Parallel() // it mostly waits
	b := start(t, nil, "sleep", "1000")
	for _, pid := range pidsOf(t, b.id, qemuName) {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	ctr(t, "task", "kill", "-s", "SIGKILL", b.id)
	if res := b.wait(t); res.Status != 137 {
		t.Errorf("%+v", res)
	}
}

// Most end by themselves; one in ten each by a kill of one of its processes on the host, and by running out of the
// guest's memory.
func TestManyInARowLeaveNothing(t *testing.T) {
	before := census(t)
	for i := range *inARow {
		switch kind := i % 10; {
		case kind == 9:
			res := ctrRun(t, []string{"--memory-limit", strconv.Itoa(32 << 20)}, "tail", "/dev/zero")
			if res.Status != 137 {
				t.Fatalf("run %d, out of memory: %+v", i, res)
			}
		case kind >= 9-len(victims()):
			victim := victims()[8-kind]
			b := start(t, nil, "sleep", "1000")
			for _, pid := range pidsOf(t, b.id, victim) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			if res := b.wait(t); res.Status == 0 {
				t.Fatalf("run %d, %s killed: %+v", i, victim, res)
			}
			_ = shared.Ctr(testContext(t), "task", "rm", "-f", b.id).Run()
		default:
			if res := ctrRun(t, nil, "sh", "-c", fmt.Sprintf("exit %d", i)); res.Status != i {
				t.Fatalf("run %d: %+v", i, res)
			}
		}
	}
	before.Expect(t)
	expectNoUnits(t)
}

func TestEightAtOnceLeaveNothing(t *testing.T) {
	before := census(t)
	var wg sync.WaitGroup
	for i := range 8 {
		id := newID(t)
		wg.Go(func() {
			res, err := shared.Run(testContext(t), id, nil, "sh", "-c", fmt.Sprintf("echo %s; exit %d", id, 100+i))
			if err != nil || res.Status != 100+i || strings.TrimSpace(res.Stdout) != id {
				t.Errorf("%s: %v, %+v", id, err, res)
			}
		})
	}
	wg.Wait()
	before.Expect(t)
}
