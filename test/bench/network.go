package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
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
	for _, direction := range []struct{ what, flag string }{
		{"TCP from a container, " + transferSize, "--client"}, {"TCP to a container, " + transferSize, "--reverse"},
	} {
		one := func(name, runtime string) func(int) (time.Duration, error) {
			return func(i int) (time.Duration, error) { return b.iperf(iperf, name, runtime, direction.flag, i) }
		}
		if err := b.compare(direction.what, "husk", one("husk", rig.Runtime), "runc", one("runc", "io.containerd.runc.v2")); err != nil {
			return err
		}
	}
	return nil
}

// iperf is how long one transfer takes, as iperf3 in a container says.
func (b *bench) iperf(iperf, name, runtime, direction string, i int) (time.Duration, error) {
	args := []string{"run", "--rm", "--runtime", runtime, "--with-ns", "network:" + filepath.Join("/run/netns", "huskbench-"+name)}
	for _, dir := range []string{"/usr", "/lib", "/lib64"} {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			args = append(args, "--mount", "type=bind,src="+real+",dst="+dir+",options=rbind:ro")
		}
	}
	args = append(args, rig.Image, fmt.Sprintf("bench-net-%s-%s-%d", name, strings.TrimLeft(direction, "-"), i), iperf, "--client", bridgeAddress, "--bytes", transferSize, "--json")
	if direction != "--client" {
		args = append(args, direction)
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
			return 0, fmt.Errorf("%s: status %d: %w: %s%s", name, res.Status, err, res.Stdout, res.Stderr)
		}
		if res.Status == 0 && report.Error == "" {
			return time.Duration(report.End.Received.Seconds * float64(time.Second)), nil
		}
		if !strings.Contains(report.Error, "busy") || time.Now().After(end) {
			return 0, errors.New("iperf3: " + report.Error)
		}
	}
}
