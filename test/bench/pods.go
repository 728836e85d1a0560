package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/huskvm/husk/deploy"
	"github.com/huskvm/husk/test/pods"
	"github.com/huskvm/husk/test/rig"
)

// pods compares the start of a pod with a network and one container, until that runs.
func (b *bench) pods() (err error) {
	dir, err := os.MkdirTemp(b.dir, "pods")
	if err != nil {
		return err
	}
	own, err := deploy.Files.ReadFile("containerd/husk-2.x.toml")
	if err != nil {
		return err
	}
	dropIn := filepath.Join(dir, "husk.toml")
	if err := os.WriteFile(dropIn, own, 0o600); err != nil {
		return err
	}
	engine, err := pods.Start(b.ctx, pods.Config{
		Config: rig.Config{
			Containerd: filepath.Join(b.tools, "containerd"), Bin: b.bin, ImageTar: filepath.Join(b.tools, "image.tar"), Dir: dir,
			HuskConfig: b.configuration(),
		},
		Pause: filepath.Join(b.tools, "pause.tar"), DropIn: dropIn,
	})
	if err != nil {
		return err
	}
	defer func() { _ = engine.Close() }()
	one := func(handler string) func(int) (time.Duration, error) {
		return func(i int) (time.Duration, error) { return b.pod(engine.Runtime, handler, i) }
	}
	return b.compare("a pod with one container, start to running", "husk", one("husk"), "runc", one("runc"))
}

// pod is how long the start of one takes.
func (b *bench) pod(runtime cri.RuntimeServiceClient, handler string, i int) (took time.Duration, err error) {
	name := fmt.Sprintf("%s-%d", handler, i)
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "bench"},
		Hostname: name, LogDirectory: b.dir,
		Linux: &cri.LinuxPodSandboxConfig{},
	}
	begin := time.Now()
	sandbox, err := runtime.RunPodSandbox(b.ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		return 0, fmt.Errorf("run pod %s: %w", name, err)
	}
	defer func() {
		_, stopErr := runtime.StopPodSandbox(b.ctx, &cri.StopPodSandboxRequest{PodSandboxId: sandbox.PodSandboxId})
		if stopErr == nil {
			_, stopErr = runtime.RemovePodSandbox(b.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox.PodSandboxId})
		}
		if err == nil && stopErr != nil {
			err = fmt.Errorf("remove pod %s: %w", name, stopErr)
		}
	}()
	container, err := runtime.CreateContainer(b.ctx, &cri.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId, SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "one"}, Image: &cri.ImageSpec{Image: rig.Image}, LogPath: name + ".log",
			Command: []string{"sh", "-c", "trap exit TERM; sleep 1000 & wait"},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("create container of pod %s: %w", name, err)
	}
	if _, err := runtime.StartContainer(b.ctx, &cri.StartContainerRequest{ContainerId: container.ContainerId}); err != nil {
		return 0, fmt.Errorf("start container of pod %s: %w", name, err)
	}
	return time.Since(begin), nil
}
