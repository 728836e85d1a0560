// Package cri drives husk as Kubernetes' kubelet does: through the CRI plugin of containerd, a microVM a pod. The
// drop-ins of deploy/ configure it. Everything here needs root, and Debian's containernetworking-plugins.
package cri

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/huskvm/husk/test/pods"
	"github.com/huskvm/husk/test/rig"
)

var (
	containerd = flag.String("containerd", "", "directory of containerd and ctr; empty is the distribution's")
	bin        = flag.String("bin", "", "directory of husk's programs and assets")
	image      = flag.String("image", "", "the test image's tar")
	pause      = flag.String("pause", "", "the pause image's tar")
	dropIn     = flag.String("drop-in", "", "husk's part of containerd's configuration")
	backend    = flag.String("backend", "auto", "what runs the guests: kvm, qemu or auto")
	handler    = flag.String("handler", "husk", "the runtime handler of pods")
	large      = flag.Bool("large", false, "also run what takes long: many containers, many pods")

	shared  *pods.Engine
	runtime cri.RuntimeServiceClient
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if *bin == "" || *image == "" || *pause == "" || *dropIn == "" {
		return 2, fmt.Errorf("-bin, -image, -pause and -drop-in are required; use make e2e")
	}
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	shared, err = pods.Start(context.Background(), pods.Config{
		Config: rig.Config{
			Containerd: *containerd, Bin: *bin, ImageTar: *image, Dir: dir,
			HuskConfig: fmt.Sprintf("vmm = %q\ndefault_memory = \"256MiB\"\n", *backend),
		},
		Pause: *pause, DropIn: *dropIn,
	})
	if err != nil {
		return 1, err
	}
	defer shared.Close()
	runtime = shared.Runtime
	code := m.Run()
	if code != 0 {
		tail, _ := shared.LogTail(60)
		fmt.Fprintf(os.Stderr, "--- the last of containerd's log\n%s\n---\n", tail)
	}
	return code, nil
}

// deadline bounds one call; emulated machines are slow.
var deadline = 2 * time.Minute

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

var serial atomic.Int32

// eventually waits for a condition, for half of what a call may take.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline / 2); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
