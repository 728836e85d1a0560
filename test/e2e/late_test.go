package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/test/rig"
)

// docker's namespace in containerd, and what `ctr run --cni` does in it as docker does: the network is made in the
// task's network namespace, between Create and Start.
func TestNetworkThatComesAfterCreate(t *testing.T) {
	inMoby := func(args ...string) rig.Result {
		t.Helper()
		res, err := rig.Exec(shared.Ctr(testContext(t), append([]string{"-n", "moby"}, args...)...))
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := inMoby("image", "import", *image); res.Status != 0 {
		t.Fatalf("%+v", res)
	}
	before := census(t)

	t.Run("an interface", func(t *testing.T) {
		config := bridge(t, 1400)
		gateway := fmt.Sprintf("10.88.%d.1", bridgeNumber)
		defaultCNI(t, config)
		// The bridge has no address before its first use, so the server listens everywhere.
		url, sum := hostServer(t, "0.0.0.0")
		url = "http://" + gateway + url[strings.LastIndex(url, ":"):]
		res := inMoby(append([]string{"run", "--rm", "--cni", "--runtime", rig.Runtime, rig.Image, newID(t)},
			"sh", "-c", "cat /sys/class/net/eth0/mtu; wget -q -O- "+url+" | sha256sum; ip -o link | wc -l")...)
		if res.Status != 0 || !strings.HasPrefix(res.Stdout, "1400\n"+sum) || !strings.HasSuffix(res.Stdout, "\n2\n") {
			t.Errorf("%+v", res)
		}
	})
	t.Run("none", func(t *testing.T) {
		res := inMoby("run", "--rm", "--runtime", rig.Runtime, rig.Image, newID(t), "sh", "-c", "ip -o link | wc -l")
		if res.Stdout != "1\n" {
			t.Errorf("%+v", res)
		}
	})
	t.Run("a name server", func(t *testing.T) {
		id := newID(t)
		flags := guestFlags(t, resolvConf(t, "nameserver 127.0.0.11\n")...)
		run := append(append([]string{"run", "-d", "--runtime", rig.Runtime}, flags...), rig.Image, id, "sleep", "1000")
		if res := inMoby(run...); res.Status != 0 {
			t.Fatalf("%+v", res)
		}
		defer func() {
			_ = inMoby("task", "rm", "-f", id)
			_ = inMoby("container", "rm", id)
		}()
		_, rest, _ := strings.Cut(inMoby("task", "ls").Stdout, id)
		pid := strings.Fields(rest)[0]
		output(t, "nsenter", "-t", pid, "-n", "ip", "link", "set", "lo", "up")
		nameServer(t, "/proc/"+pid+"/ns/net", "127.0.0.11:53")
		for network, want := range map[string]string{"udp": "[192.0.2.1]\n", "tcp": "[192.0.2.2]\n"} {
			ask := append([]string{"task", "exec", "--exec-id", network, id}, guest("ask", network, "some.name.example.")...)
			if res := inMoby(ask...); res.Stdout != want {
				t.Errorf("%+v", res)
			}
		}
	})
	before.Expect(t)
}

// defaultCNI puts a network where ctr looks, for the duration of the test, in place of what the machine has there.
func defaultCNI(t *testing.T, plugin map[string]any) {
	t.Helper()
	list, err := json.Marshal(map[string]any{"cniVersion": "0.4.0", "name": "husk-test", "plugins": []any{plugin}})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/etc/cni", "/opt/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("husk-test", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	}
	if err := os.Mkdir("/etc/cni/net.d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/etc/cni/net.d/00-husk-test.conflist", list, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(cniPlugins, "/opt/cni/bin"); err != nil {
		t.Fatal(err)
	}
}
