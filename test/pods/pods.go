// Package pods is a rig whose containerd has the CRI plugin, husk's drop-in of deploy/ in its configuration, and a bridge
// that pods are connected to: what the tests of pods and the benchmark of their start drive. It needs Debian's
// containernetworking-plugins.
package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/huskvm/husk/test/rig"
)

// WithOptions is a handler of containerd 2.x whose options are in containerd's own configuration, as runc's often are.
const WithOptions = "husk-options"

const pauseImage = "husk.test/pause:latest"

// Config is the rig's, and what pods need beside.
type Config struct {
	rig.Config
	Pause  string // the pause image's tar
	DropIn string // husk's part of containerd's configuration: its file
}

// Engine is a containerd that runs pods.
type Engine struct {
	*rig.Rig
	Runtime cri.RuntimeServiceClient
	conn    *grpc.ClientConn
}

// Start runs it, and returns when pods can be run.
func Start(ctx context.Context, c Config) (e *Engine, err error) {
	if err := writeCNI(filepath.Join(c.Dir, "cni"), c.Dir); err != nil {
		return nil, err
	}
	c.Namespace = "k8s.io"
	if c.CRI, err = c.plugin(); err != nil {
		return nil, err
	}
	e = new(Engine)
	if e.Rig, err = rig.Start(ctx, c.Config); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			tail, _ := e.LogTail(2000)
			err = errors.Join(fmt.Errorf("%w\n%s", err, tail), e.Close())
		}
	}()
	e.conn, err = grpc.NewClient("unix://"+e.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	e.Runtime = cri.NewRuntimeServiceClient(e.conn)
	if out, err := e.Ctr(ctx, "image", "import", c.Pause).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("import the pause image: %w: %s", err, out)
	}
	return e, e.ready(ctx)
}

// Close ends it. With SIGTERM the CRI plugin may wait for ever for a stream that its client has left.
func (e *Engine) Close() error {
	var err error
	if e.conn != nil {
		err = e.conn.Close()
	}
	return errors.Join(err, e.Kill())
}

// ready waits until the plugin knows its network and the images.
func (e *Engine) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	images := cri.NewImageServiceClient(e.conn)
	for {
		missing := ""
		for _, name := range []string{rig.Image, pauseImage} {
			r, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
			if err != nil || r.Image == nil {
				missing = fmt.Sprintf("image %s: %v", name, err)
			}
		}
		s, err := e.Runtime.Status(ctx, &cri.StatusRequest{})
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

// plugin is the plugin's configuration with husk's drop-in, for the version of containerd that the drop-in is for.
func (c *Config) plugin() (*rig.CRI, error) {
	own, err := os.ReadFile(c.DropIn)
	if err != nil {
		return nil, err
	}
	if c.Containerd == "" {
		return &rig.CRI{Version: 2, Plugins: fmt.Sprintf(`[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = %q
  conf_dir = %q
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
%s`, pauseImage, cniPlugins, filepath.Join(c.Dir, "cni"), own)}, nil
	}
	path := filepath.Join(c.Dir, "husk-drop-in.toml")
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
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%s]
  runtime_type = 'io.containerd.husk.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%[4]s.options]
  SystemdCgroup = false
  default_memory = '192MiB'
`, pauseImage, cniPlugins, filepath.Join(c.Dir, "cni"), WithOptions)}, nil
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
