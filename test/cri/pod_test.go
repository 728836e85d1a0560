package cri

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/huskvm/husk/test/rig"
)

// pod is a sandbox that the end of the test stops and removes, if it is still there.
type pod struct {
	t      *testing.T
	id     string
	config *cri.PodSandboxConfig
}

// podConfig is a pod like the kubelet's, with a network and a log directory of its own.
func podConfig(t *testing.T) *cri.PodSandboxConfig {
	n := serial.Add(1)
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: fmt.Sprint("pod", n), Uid: fmt.Sprint("uid", n), Namespace: "test"},
		Hostname:     fmt.Sprint("pod", n),
		LogDirectory: t.TempDir(),
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
}

// newPod runs a pod; edits change its configuration.
func newPod(t *testing.T, edits ...func(*cri.PodSandboxConfig)) *pod {
	t.Helper()
	return newPodOf(t, *handler, edits...)
}

// newPodOf is newPod by a handler.
func newPodOf(t *testing.T, handler string, edits ...func(*cri.PodSandboxConfig)) *pod {
	t.Helper()
	p := &pod{t: t, config: podConfig(t)}
	for _, edit := range edits {
		edit(p.config)
	}
	r, err := runtime.RunPodSandbox(testContext(t), &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: handler})
	if err != nil {
		t.Fatalf("run pod: %v", err)
	}
	p.id = r.PodSandboxId
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		_, _ = runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		_, _ = runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
	})
	return p
}

// stop and remove the pod, as the kubelet does at its end.
func (p *pod) stop() {
	p.t.Helper()
	ctx := testContext(p.t)
	if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.t.Fatalf("stop pod: %v", err)
	}
}

func (p *pod) remove() {
	p.t.Helper()
	p.stop()
	if _, err := runtime.RemovePodSandbox(testContext(p.t), &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.t.Fatalf("remove pod: %v", err)
	}
}

func (p *pod) status() *cri.PodSandboxStatus {
	p.t.Helper()
	r, err := runtime.PodSandboxStatus(testContext(p.t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		p.t.Fatalf("status of pod: %v", err)
	}
	return r.Status
}

// container of a pod.
type container struct {
	*pod
	id     string
	config *cri.ContainerConfig
}

func containerConfig(name string, args ...string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: rig.Image},
		Command:  args,
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
}

// tryCreate creates a container.
func (p *pod) tryCreate(config *cri.ContainerConfig) (*container, error) {
	r, err := runtime.CreateContainer(testContext(p.t), &cri.CreateContainerRequest{
		PodSandboxId: p.id, Config: config, SandboxConfig: p.config,
	})
	if err != nil {
		return nil, err
	}
	return &container{pod: p, id: r.ContainerId, config: config}, nil
}

func (p *pod) create(config *cri.ContainerConfig) *container {
	p.t.Helper()
	c, err := p.tryCreate(config)
	if err != nil {
		p.t.Fatalf("create container %s: %v", config.Metadata.Name, err)
	}
	return c
}

// start creates a container and starts it.
func (p *pod) start(config *cri.ContainerConfig) *container {
	p.t.Helper()
	c := p.create(config)
	c.start()
	return c
}

func (c *container) start() {
	c.t.Helper()
	if _, err := runtime.StartContainer(testContext(c.t), &cri.StartContainerRequest{ContainerId: c.id}); err != nil {
		c.t.Fatalf("start container %s: %v", c.config.Metadata.Name, err)
	}
}

// stop asks the container to end, and kills it after the grace period.
func (c *container) stop(grace time.Duration) {
	c.t.Helper()
	_, err := runtime.StopContainer(testContext(c.t), &cri.StopContainerRequest{ContainerId: c.id, Timeout: int64(grace.Seconds())})
	if err != nil {
		c.t.Fatalf("stop container %s: %v", c.config.Metadata.Name, err)
	}
}

func (c *container) remove() {
	c.t.Helper()
	if _, err := runtime.RemoveContainer(testContext(c.t), &cri.RemoveContainerRequest{ContainerId: c.id}); err != nil {
		c.t.Fatalf("remove container %s: %v", c.config.Metadata.Name, err)
	}
}

func (c *container) status() *cri.ContainerStatus {
	c.t.Helper()
	r, err := runtime.ContainerStatus(testContext(c.t), &cri.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		c.t.Fatalf("status of container %s: %v", c.config.Metadata.Name, err)
	}
	return r.Status
}

// wait returns the status of the container once it has exited.
func (c *container) wait() *cri.ContainerStatus {
	c.t.Helper()
	var s *cri.ContainerStatus
	eventually(c.t, "container "+c.config.Metadata.Name+" has exited", func() bool {
		s = c.status()
		return s.State == cri.ContainerState_CONTAINER_EXITED
	})
	return s
}

// expectExit waits for the container's end, which must be with a status.
func (c *container) expectExit(status int32) {
	c.t.Helper()
	if s := c.wait(); s.ExitCode != status {
		c.t.Errorf("container %s: exit status %d (%s: %s), want %d; it said %q", c.config.Metadata.Name, s.ExitCode, s.Reason, s.Message, status, c.log())
	}
}

// exec runs a command in the container to its end.
func (c *container) exec(args ...string) (stdout, stderr string, status int32) {
	c.t.Helper()
	r, err := runtime.ExecSync(testContext(c.t), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: args, Timeout: 60})
	if err != nil {
		c.t.Fatalf("exec %q in %s: %v", args, c.config.Metadata.Name, err)
	}
	return string(r.Stdout), string(r.Stderr), r.ExitCode
}

// expectOutput runs a shell's command in the container, which must succeed and print want.
func (c *container) expectOutput(want, command string) {
	c.t.Helper()
	stdout, stderr, status := c.exec("sh", "-c", command)
	if status != 0 || strings.TrimSpace(stdout) != want {
		c.t.Errorf("%s in %s: status %d, %q %q, want %q", command, c.config.Metadata.Name, status, stdout, stderr, want)
	}
}

// log is what the container's log file holds of its output, in the CRI's format: time, stream, tag, text.
func (c *container) log() string {
	c.t.Helper()
	f, err := os.Open(filepath.Join(c.pod.config.LogDirectory, c.config.LogPath))
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	var text strings.Builder
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		field := strings.SplitN(lines.Text(), " ", 4)
		if len(field) != 4 {
			c.t.Fatalf("log line %q", lines.Text())
		}
		if _, err := time.Parse(time.RFC3339Nano, field[0]); err != nil {
			c.t.Errorf("log line %q: %v", lines.Text(), err)
		}
		text.WriteString(field[3])
		if field[2] == "F" {
			text.WriteByte('\n')
		}
	}
	return text.String()
}

// says waits until the container's log contains text.
func (c *container) says(text string) {
	c.t.Helper()
	eventually(c.t, "container "+c.config.Metadata.Name+" says "+text, func() bool { return strings.Contains(c.log(), text) })
}
