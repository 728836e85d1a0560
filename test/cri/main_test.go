// Package cri drives husk as Kubernetes' kubelet does: through the CRI plugin of containerd, a microVM a pod. The
// drop-ins of deploy/ configure it. Everything here needs root, and Debian's containernetworking-plugins.
package cri

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

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

	shared  *rig.Rig
	runtime cri.RuntimeServiceClient
)

const pauseImage = "husk.test/pause:latest"

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
	if err := writeCNI(filepath.Join(dir, "cni"), dir); err != nil {
		return 1, err
	}
	configuration, err := criConfig(dir)
	if err != nil {
		return 1, err
	}
	shared, err = rig.Start(context.Background(), rig.Config{
		Containerd: *containerd, Bin: *bin, ImageTar: *image, Dir: dir,
		HuskConfig: fmt.Sprintf("vmm = %q\ndefault_memory = \"256MiB\"\n", *backend),
		CRI:        configuration, Namespace: "k8s.io",
	})
	if err != nil {
		return 1, err
	}
	// With SIGTERM the CRI plugin may wait for ever for a stream that its client has left.
	defer shared.Kill()
	conn, err := grpc.NewClient("unix://"+shared.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 1, err
	}
	defer conn.Close()
	runtime = cri.NewRuntimeServiceClient(conn)
	if out, err := shared.Ctr(context.Background(), "image", "import", *pause).CombinedOutput(); err != nil {
		return 1, fmt.Errorf("import the pause image: %w: %s", err, out)
	}
	if err := ready(cri.NewImageServiceClient(conn)); err != nil {
		tail, _ := shared.LogTail(2000)
		return 1, fmt.Errorf("%w\n%s", err, tail)
	}
	code := m.Run()
	if code != 0 {
		tail, _ := shared.LogTail(60)
		fmt.Fprintf(os.Stderr, "--- the last of containerd's log\n%s\n---\n", tail)
	}
	return code, nil
}

// ready waits until the plugin knows its network and the images.
func ready(images cri.ImageServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		missing := ""
		for _, name := range []string{rig.Image, pauseImage} {
			r, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
			if err != nil || r.Image == nil {
				missing = fmt.Sprintf("image %s: %v", name, err)
			}
		}
		s, err := runtime.Status(ctx, &cri.StatusRequest{})
		if err != nil {
			missing = err.Error()
		}
		for _, c := range s.GetStatus().GetConditions() {
			if !c.Status && (c.Type == cri.RuntimeReady || c.Type == cri.NetworkReady) {
				missing = c.Type + ": " + c.Message
			}
		}
		if missing == "" {
			return nil
		}
		if status.Code(err) == codes.Unimplemented {
			return fmt.Errorf("the CRI plugin was not loaded: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the CRI plugin does not become ready: %s", missing)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// criConfig is the plugin's configuration with husk's drop-in, for the version of containerd that the drop-in is for.
func criConfig(dir string) (*rig.CRI, error) {
	own, err := os.ReadFile(*dropIn)
	if err != nil {
		return nil, err
	}
	if *containerd == "" {
		return &rig.CRI{Version: 2, Plugins: fmt.Sprintf(`[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = %q
  conf_dir = %q
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
%s`, pauseImage, cniPlugins, filepath.Join(dir, "cni"), own)}, nil
	}
	path := filepath.Join(dir, "husk-drop-in.toml")
	if err := os.WriteFile(path, own, 0o600); err != nil {
		return nil, err
	}
	return &rig.CRI{Version: 3, Imports: []string{path}, Plugins: fmt.Sprintf(`[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [%q]
  conf_dir = %q
`, pauseImage, cniPlugins, filepath.Join(dir, "cni"))}, nil
}

// cniPlugins is where the distribution has them.
const cniPlugins = "/usr/lib/cni"

// writeCNI configures a bridge that pods are connected to.
func writeCNI(dir, state string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "10-test.conflist"), fmt.Appendf(nil, `{
	"cniVersion": "0.4.0", "name": "husk-test", "plugins": [{
		"type": "bridge", "bridge": "husktest0", "isGateway": true,
		"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.88.0.0/16"}]]}
	}]
}`, filepath.Join(state, "leases")), 0o644)
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
