package cri

import (
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestKilledVMMEndsThePodAndAllItsContainers(t *testing.T) {
	before := census(t)
	p := newPod(t)
	one, two := p.start(shell("one", idle)), p.start(shell("two", idle))
	vmms := newVMMs(t, before)
	if len(vmms) != 1 {
		t.Fatalf("VMMs %v", vmms)
	}
	if err := unix.Kill(vmms[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	one.expectExit(137)
	two.expectExit(137)
	eventually(t, "the pod is not ready", func() bool { return p.status().State == cri.PodSandboxState_SANDBOX_NOTREADY })
	if _, err := p.tryCreate(shell("late", "true")); err == nil {
		t.Error("a container was created in a pod that is not ready")
	}
	p.remove()
	before.Expect(t)
}

func TestContainerdRestartsWithARunningPod(t *testing.T) {
	before := census(t)
	p := newPod(t)
	c := p.start(shell("main", "echo before; "+idle))
	c.says("before")
	dir := t.TempDir()
	config := shell("short", "while [ ! -e /dir/go ]; do sleep 0.1; done; echo > /dir/went; exit 3")
	config.Mounts = []*cri.Mount{{HostPath: dir, ContainerPath: "/dir"}}
	short := p.start(config)
	if err := shared.Kill(); err != nil {
		t.Fatal(err)
	}
	// This one ends while nobody looks.
	if err := os.WriteFile(dir+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes", func() bool { _, err := os.Stat(dir + "/went"); return err == nil })
	if err := shared.Launch(context.Background()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the plugin is back", func() bool {
		_, err := runtime.Version(testContext(t), &cri.VersionRequest{})
		return err == nil
	})
	if s := p.status(); s.State != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod is %s", s.State)
	}
	short.expectExit(3)
	c.expectOutput("alive", "echo alive")
	late := p.start(shell("late", "exit 4"))
	late.expectExit(4)
	p.remove()
	before.Expect(t)
}
