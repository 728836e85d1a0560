package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// A container that takes all the threads it can get keeps itself from having more, but not the guest from serving it.
func TestAContainerLeavesTheGuestItsThreads(t *testing.T) {
	// Most are threads of one process: as many processes would use up the memory first.
	const greedy = `max=$(cat /proc/sys/kernel/threads-max)
read x x x now x </proc/loadavg
mkfifo /tmp/said
/e2e guest threads $((max - ${now#*/} - 400)) >/tmp/said & read n </tmp/said
while :; do sleep 1000 & done`
	dir := t.TempDir()
	b := start(t, guestFlags(t, bindFlag(dir, "/dir", "rw")), "sh", "-c", `sh -c "$0" && exit; mkfifo /tmp/never; : >/dir/full
		until [ -e /dir/enough ]; do read -t 1 x <>/tmp/never; done
		kill -9 -1; exec sleep 1000`, greedy)
	exec := func(id string) rig.Result {
		res, err := rig.Exec(shared.Ctr(testContext(t), "task", "exec", "--exec-id", id, b.id, "sh", "-c", "exit 7"))
		if err != nil {
			t.Error(err)
		}
		return res
	}
	eventually(t, "no more threads", func() bool {
		select {
		case <-b.done:
			t.Fatalf("it has ended: %+v", b.res)
		default:
		}
		_, err := os.Stat(filepath.Join(dir, "full"))
		return err == nil
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { exec(fmt.Sprint("refused", i)) }) // each wants threads of the agent's as well
	}
	wg.Wait()
	if err := os.WriteFile(filepath.Join(dir, "enough"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	eventually(t, "an exec where there are threads again", func() bool {
		n++
		return exec(fmt.Sprint("again", n)).Status == 7
	})
	ctr(t, "task", "kill", "-s", "SIGKILL", b.id)
	if res := b.wait(t); res.Status != 137 {
		t.Errorf("%+v", res)
	}
}
