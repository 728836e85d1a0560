package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// queuesOf are the names of an interface's queues, of which the kernel shows those that are in use.
const queuesOf = "cd /sys/class/net/%s/queues && echo *"

// A guest with several vCPUs has a pair of queues for each, on as many queues of the tap, and uses them.
func TestQueuesOfAnInterface(t *testing.T) {
	for _, vcpus := range []string{"1", "2"} {
		t.Run(vcpus+" vCPUs", func(t *testing.T) {
			ns := newNetns(t)
			own, gateway := ns.add("eth0", bridge(t, 1500)).address(t, false)
			before := ns.traces()
			c := start(t, ns.flags("--annotation", "io.husk.vcpus="+vcpus), webServer()...)
			// A QEMU may have fewer than it was asked for.
			want := map[string]string{"1\n": "rx-0 tx-0\n", "2\n": "rx-0 rx-1 tx-0 tx-1\n"}[c.exec(t, "nproc")]
			if got := c.exec(t, "sh", "-c", fmt.Sprintf(queuesOf, "eth0")); got != want {
				t.Errorf("the guest's queues are %q, want %q", got, want)
			}
			if got := ns.run("sh", "-c", fmt.Sprintf(queuesOf, "husk*-0")); strings.Count(got, "tx-") != strings.Count(want, "tx-") {
				t.Errorf("the tap's queues are %q, the guest's %q", got, want)
			}
			if vcpus == "1" {
				return // which is what all other tests of networks have
			}
			get(t, "http://"+own+"/sum")
			url, sum := hostServer(t, gateway)
			// What a processor sends goes by its own queue.
			for cpu := range strings.Count(want, "tx-") {
				fetch := fmt.Sprintf("taskset %d wget -q -O- %s | sha256sum", 1<<cpu, url)
				if got := c.exec(t, "sh", "-c", fetch); !strings.HasPrefix(got, sum) {
					t.Errorf("processor %d: the sum is %s, want %s", cpu, got, sum)
				}
			}
			// Several connections at a time, both ways.
			t.Run("at a time", func(t *testing.T) {
				for i := range 4 {
					t.Run(fmt.Sprint(i), func(t *testing.T) {
						t.Parallel()
						checkBig(t, "http://"+own)
						if got := c.exec(t, "sh", "-c", "wget -q -O- "+url+" | sha256sum"); !strings.HasPrefix(got, sum) {
							t.Errorf("the sum is %s, want %s", got, sum)
						}
					})
				}
			})
			ctr(t, "task", "kill", "-s", "SIGKILL", c.id)
			c.wait(t)
			ns.unchanged(before)
		})
	}
}
