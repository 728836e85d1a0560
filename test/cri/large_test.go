package cri

import (
	"fmt"
	"sync"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func needLarge(t *testing.T) {
	t.Helper()
	if !*large {
		t.Skip("it takes long: -large")
	}
	// Many at a time are slow each. What is not to be missed are the limits of others.
	usual := deadline
	deadline *= 10
	t.Cleanup(func() { deadline = usual })
}

func TestTenContainersComeAndGoTogether(t *testing.T) {
	needLarge(t)
	before := census(t)
	p := newPod(t)
	all := make([]*container, 10)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			all[i] = p.start(shell(fmt.Sprint("c", i), fmt.Sprintf("echo %d > /n; sleep 1000 & wait; exit %d", i, i)))
		})
	}
	wg.Wait()
	for i, c := range all {
		c.expectOutput(fmt.Sprint(i), "cat /n")
	}
	for _, c := range all {
		wg.Go(func() { c.stop(0); c.expectExit(137); c.remove() })
	}
	wg.Wait()
	p.start(shell("last", "exit 5")).expectExit(5)
	p.remove()
	before.Expect(t)
}

func TestTwentyPods(t *testing.T) {
	needLarge(t)
	before := census(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			p := newPod(t, func(c *cri.PodSandboxConfig) { c.Annotations = map[string]string{"io.husk.memory": "128MiB"} })
			p.start(shell("main", fmt.Sprintf("exit %d", i))).expectExit(int32(i))
			p.remove()
		})
	}
	wg.Wait()
	before.Expect(t)
}
