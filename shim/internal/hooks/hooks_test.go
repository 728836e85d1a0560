package hooks

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// set is a container's with a bundle of its own; every hook is a shell script.
func set(t *testing.T) (s Set, hook func(script string) specs.Hook) {
	t.Helper()
	bundle := t.TempDir()
	s = Of("c", bundle, &specs.Spec{Version: "1.2.0", Annotations: map[string]string{"a": "b"}, Hooks: &specs.Hooks{}})
	return s, func(script string) specs.Hook {
		return specs.Hook{Path: "/bin/sh", Args: []string{"hook", "-c", script, "name", "argument"}, Env: []string{"KEY=value"}}
	}
}

func read(t *testing.T, s Set, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Container.Bundle, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestHooksAreToldTheStateInTheBundlesDirectory(t *testing.T) {
	s, hook := set(t)
	s.Hooks.CreateRuntime = []specs.Hook{hook("cat > state; echo $KEY $1 > said; pwd >> said; echo ${HOME-homeless} >> said")}
	if err := s.Create(t.Context(), 42); err != nil {
		t.Fatal(err)
	}
	want := specs.State{
		Version: "1.2.0", ID: "c", Status: specs.StateCreating, Pid: 42,
		Bundle: s.Container.Bundle, Annotations: map[string]string{"a": "b"},
	}
	var got specs.State
	if err := json.Unmarshal([]byte(read(t, s, "state")), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, want := read(t, s, "said"), "value argument\n"+s.Container.Bundle+"\nhomeless\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHooksRunInOrderUpToTheFirstThatFails(t *testing.T) {
	s, hook := set(t)
	//lint:ignore SA1019 deprecated, and docker's own
	s.Hooks.Prestart = []specs.Hook{hook("echo 1 >> order"), hook("echo 2 >> order")}
	s.Hooks.CreateRuntime = []specs.Hook{hook("echo 3 >> order; echo so it goes >&2; exit 5"), hook("echo 4 >> order")}
	err := s.Create(t.Context(), 1)
	if err == nil || !strings.Contains(err.Error(), "createRuntime hook /bin/sh: exit status 5: so it goes") {
		t.Errorf("got %v", err)
	}
	if got := read(t, s, "order"); got != "1\n2\n3\n" {
		t.Errorf("order %q", got)
	}
}

func TestAllPostStopHooksRun(t *testing.T) {
	s, hook := set(t)
	s.Hooks.Poststop = []specs.Hook{hook("exit 1"), hook("echo ran > second; exit 2")}
	err := s.PostStop(t.Context())
	if err == nil || !strings.Contains(err.Error(), "status 1") || !strings.Contains(err.Error(), "status 2") {
		t.Errorf("got %v", err)
	}
	if got := read(t, s, "second"); got != "ran\n" {
		t.Errorf("got %q", got)
	}
}

func TestAHookOverTimeIsKilledWithWhatItStarted(t *testing.T) {
	s, hook := set(t)
	seconds := 1
	h := hook("echo begun; sleep 1000 & echo $! > child; wait")
	h.Timeout = &seconds
	s.Hooks.Poststart = []specs.Hook{h}
	err := s.PostStart(t.Context(), 1)
	if err == nil || !strings.Contains(err.Error(), "timeout of 1 s: begun") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(read(t, s, "child")) + "/cwd"); err == nil {
		t.Error("the hook's child lives")
	}
}

func TestAHookMayLeaveADaemon(t *testing.T) {
	s, hook := set(t)
	s.Hooks.Poststart = []specs.Hook{hook("sleep 2 &")}
	if err := s.PostStart(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

func TestATimeoutOf0IsRefused(t *testing.T) {
	s, hook := set(t)
	h := hook("true")
	h.Timeout = new(int)
	s.Hooks.Poststart = []specs.Hook{h}
	if err := s.PostStart(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "greater than 0") {
		t.Errorf("got %v", err)
	}
}

func TestAMissingHookIsNamed(t *testing.T) {
	s, _ := set(t)
	s.Hooks.CreateRuntime = []specs.Hook{{Path: "/no/such/hook"}}
	if err := s.Create(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "createRuntime hook /no/such/hook") {
		t.Errorf("got %v", err)
	}
}

func TestNoHooksAreNoError(t *testing.T) {
	var s Set
	if s.Create(t.Context(), 1) != nil || s.PostStart(t.Context(), 1) != nil || s.PostStop(t.Context()) != nil {
		t.Error("an error of nothing")
	}
}
