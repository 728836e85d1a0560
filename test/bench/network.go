package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/huskvm/husk/test/rig"
)

// transferSize is what iperf3 sends at a time.
const transferSize = "256M"

// A bridge with the host's address, and a network namespace at a port of it for each of the two.
const (
	bridgeName    = "huskbench0"
	bridgeAddress = "10.96.0.1"
	wiring        = `set -e
ip link add huskbench0 type bridge
ip addr add 10.96.0.1/24 dev huskbench0
ip link set huskbench0 up
n=2
for name in husk runc; do
	ip netns add huskbench-$name
	ip link add huskbench-$name type veth peer name eth0 netns huskbench-$name
	ip link set huskbench-$name master huskbench0 up
	ip -n huskbench-$name link set lo up
	ip -n huskbench-$name link set eth0 up
	ip -n huskbench-$name addr add 10.96.0.$n/24 dev eth0
	n=$((n + 1))
done`
	unwiring = `ip link del huskbench0; ip netns del huskbench-husk; ip netns del huskbench-runc`
)

// network compares what TCP carries through a bridge, from a container to the host and back, for as long as it takes to
// carry a fixed size. The containers use the host's iperf3.
func (b *bench) network() error {
	iperf, err := exec.LookPath("iperf3")
	if err != nil {
		return err
	}
	defer func() { _ = exec.Command("sh", "-c", unwiring).Run() }()
	if out, err := exec.Command("sh", "-c", wiring).CombinedOutput(); err != nil {
		return fmt.Errorf("make a bridge: %w: %s", err, out)
	}
	server := exec.CommandContext(b.ctx, iperf, "--server", "--bind", bridgeAddress)
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { _, _ = server.Process.Kill(), server.Wait() }()
	vhost, qemu := filepath.Join(b.dir, "vhost.toml"), filepath.Join(b.dir, "qemu.toml")
	err = errors.Join(
		os.WriteFile(vhost, []byte(b.configuration()+"vhost_net = \"auto\"\n"), 0o600),
		os.WriteFile(qemu, []byte("vmm = \"qemu\"\ndefault_memory = \"256MiB\"\n"), 0o600))
	if err != nil {
		return err
	}
	for _, direction := range []struct{ what, flag string }{{"TCP from a container, ", ""}, {"TCP to a container, ", "--reverse"}} {
		one := func(t transfer) func(int) (time.Duration, error) {
			t.direction = direction.flag
			return func(i int) (time.Duration, error) { return b.iperf(iperf, t, i) }
		}
		husk := transfer{name: "husk", runtime: rig.Runtime, connections: 1}
		if err := b.compare(direction.what+transferSize, "husk", one(husk), "runc", one(transfer{name: "runc", runtime: "io.containerd.runc.v2", connections: 1})); err != nil {
			return err
		}
		if b.backend != "kvm" {
			continue
		}
		byQEMU := husk
		byQEMU.flags = []string{"--runtime-config-path", qemu}
		if err := b.compare(direction.what+"the built-in VMM or QEMU on KVM", "husk-vmm", one(husk), "QEMU", one(byQEMU)); err != nil {
			return err
		}
		byKernel, two, twoByKernel := husk, husk, husk
		byKernel.flags = []string{"--runtime-config-path", vhost}
		two.flags, two.connections = []string{"--annotation", "io.husk.vcpus=2"}, 2
		twoByKernel.flags, twoByKernel.connections = slices.Concat(byKernel.flags, two.flags), 2
		if err := b.compare(direction.what+"by vhost-net or not", "with", one(byKernel), "without", one(husk)); err != nil {
			return err
		}
		if err := b.compare(direction.what+"two vCPUs and connections or one", "two", one(two), "one", one(husk)); err != nil {
			return err
		}
		if err := b.compare(direction.what+"two vCPUs and connections, by vhost-net or not", "with", one(twoByKernel), "without", one(two)); err != nil {
			return err
		}
	}
	return nil
}

// transfer is what iperf3 does in a container.
type transfer struct {
	name, runtime string
	flags         []string // of the container
	connections   int
	direction     string // an option of iperf3, or nothing
}

// iperf is how long one transfer takes, as iperf3 says.
func (b *bench) iperf(iperf string, t transfer, i int) (time.Duration, error) {
	args := append([]string{"run", "--rm", "--runtime", t.runtime, "--with-ns", "network:" + filepath.Join("/run/netns", "huskbench-"+t.name)}, t.flags...)
	for _, dir := range []string{"/usr", "/lib", "/lib64"} {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			args = append(args, "--mount", "type=bind,src="+real+",dst="+dir+",options=rbind:ro")
		}
	}
	args = append(args, rig.Image, fmt.Sprintf("bench-net-%s-%d", t.name, i), iperf, "--client", bridgeAddress,
		"--bytes", transferSize, "--parallel", fmt.Sprint(t.connections), "--json")
	if t.direction != "" {
		args = append(args, t.direction)
	}
	// A server that has just finished with another is busy for a moment.
	for end := time.Now().Add(time.Minute); ; {
		res, err := rig.Exec(b.rig.Ctr(b.ctx, args...))
		if err != nil {
			return 0, err
		}
		var report struct {
			Error string
			End   struct {
				Received struct{ Seconds float64 } `json:"sum_received"`
			}
		}
		if err := json.Unmarshal([]byte(res.Stdout), &report); err != nil {
			return 0, fmt.Errorf("%s: status %d: %w: %s%s", t.name, res.Status, err, res.Stdout, res.Stderr)
		}
		if res.Status == 0 && report.Error == "" {
			return time.Duration(report.End.Received.Seconds * float64(time.Second)), nil
		}
		if !strings.Contains(report.Error, "busy") || time.Now().After(end) {
			return 0, errors.New("iperf3: " + report.Error)
		}
	}
}
