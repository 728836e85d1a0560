package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/test/rig"
)

// hooked is a container whose hooks of every kind write a line to a file: those of the host by a shell of the host, those
// of the container by one of the image.
func hooked(t *testing.T, command string) (s *specs.Spec, said func() string) {
	t.Helper()
	host := t.TempDir()
	s = script(t, command)
	s.Mounts = append(s.Mounts, bind(host, "/said", "rbind"))
	log := filepath.Join(host, "log")
	hook := func(path, kind, file string) []specs.Hook {
		script := `read -r state; echo ` + kind + ` $(echo "$state" | sed 's/.*"status":"\([a-z]*\)".*/\1/') >> ` + file
		return []specs.Hook{{Path: path, Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}}}
	}
	s.Hooks = &specs.Hooks{
		//lint:ignore SA1019 deprecated, and docker's own
		Prestart:       hook("/bin/sh", "prestart", log),
		CreateRuntime:  hook("/bin/sh", "createRuntime", log),
		StartContainer: hook("/bin/sh", "startContainer", "/said/log"),
		Poststart:      hook("/bin/sh", "poststart", log),
		Poststop:       hook("/bin/sh", "poststop", log),
	}
	return s, func() string {
		text, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", ")
	}
}

func TestHooksRunInOrder(t *testing.T) {
	s, said := hooked(t, "until grep -q poststart /said/log; do sleep 0.1; done")
	if res := runSpec(t, s); res.Status != 0 {
		t.Errorf("%+v", res)
	}
	const want = "prestart creating, createRuntime creating, startContainer created, poststart running, poststop stopped"
	if got := said(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAFailedHookIsAnErrorAndLeavesNothing(t *testing.T) {
	fail := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo not today; exit 9"}}}
	t.Run("createRuntime", func(t *testing.T) {
		s, said := hooked(t, "true")
		s.Hooks.CreateRuntime = fail
		refused(t, bare(t, rig.Runtime, s), "createRuntime hook /bin/sh", "not today")
		if got := said(); got != "prestart creating, poststop stopped" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("poststart", func(t *testing.T) {
		s, said := hooked(t, "sleep 1000")
		s.Hooks.Poststart = fail
		refused(t, bare(t, rig.Runtime, s), "poststart hook /bin/sh", "not today")
		eventually(t, "poststop", func() bool { return strings.HasSuffix(said(), "poststop stopped") })
	})
}

func TestPostStopHooksRunAfterAKilledShim(t *testing.T) {
	before := census(t)
	s, said := hooked(t, "sleep 1000")
	args := bare(t, rig.Runtime, s)
	cmd := shared.Ctr(testContext(t), args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id := args[len(args)-1]
	eventually(t, "poststart", func() bool { return strings.Contains(said(), "poststart") && taskStatus(t, id) == "RUNNING" })
	for _, pid := range pidsOf(t, id, shimName) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = cmd.Wait()
	_ = shared.Ctr(testContext(t), "task", "rm", "-f", id).Run()
	_ = shared.Ctr(testContext(t), "container", "rm", id).Run()
	eventually(t, "poststop", func() bool { return strings.HasSuffix(said(), "poststop stopped") })
	before.Expect(t)
}

// A createContainer hook is a program of the guest, in the container's namespaces before its root is. That of the test is
// found in the container's share.
func TestCreateContainerHooksRunInTheGuest(t *testing.T) {
	s := script(t, "cat /said")
	args := bare(t, rig.Runtime, s)
	sum := sha256.Sum256([]byte(args[len(args)-1]))
	root := fmt.Sprintf("/run/husk/shares/%x-root", sum[:5])
	s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{
		Path: root + "/bin/busybox", Args: []string{"sh", "-c", "read -r state; echo $0 > $1/said; hostname >> $1/said", "said", root},
	}}}
	s.Hostname = "container"
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(args[len(args)-2], data, 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := rig.Exec(shared.Ctr(testContext(t), args...))
	if err != nil || res.Status != 0 || res.Stdout != "said\ncontainer\n" {
		t.Errorf("%v, %+v", err, res)
	}
	s.Hooks.CreateContainer[0].Path = "/no/such"
	refused(t, bare(t, rig.Runtime, s), "createContainer", "/no/such")
}

// What a hook of the host is told names a living process of the host.
func TestHooksAreToldALivingProcess(t *testing.T) {
	s := script(t, "true")
	file := filepath.Join(t.TempDir(), "state")
	s.Annotations = map[string]string{"com.example": "yes"}
	s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
		Path: "/bin/sh", Args: []string{"sh", "-c", `cat > ` + file + `; kill -0 $(sed 's/.*"pid":\([0-9]*\).*/\1/' ` + file + `)`},
	}}}
	if res := runSpec(t, s); res.Status != 0 {
		t.Errorf("%+v", res)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var state specs.State
	if err := json.Unmarshal(text, &state); err != nil || state.Pid == 0 || state.Annotations["com.example"] != "yes" || state.Bundle == "" {
		t.Errorf("%v, %s", err, text)
	}
}
