package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/huskvm/husk/shim/internal/rundir"
)

const (
	rootEnv  = "HUSK_TEST_ROOT"
	deathEnv = "HUSK_TEST_DEATH" // set: the daemon is killed before it serves
)

// The daemon is this binary again, as it is in the shim.
func TestMain(m *testing.M) {
	if os.Args[len(os.Args)-1] == serveAction {
		if os.Getenv(deathEnv) != "" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		s := New("test")
		s.Root = os.Getenv(rootEnv)
		os.Exit(s.Run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// engine calls the shim as containerd does.
type engine struct {
	root   string
	bundle string
	stdin  []byte
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a mount namespace needs root")
	}
	root, err := os.MkdirTemp("", "husk") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	t.Setenv(rootEnv, root)
	t.Setenv("TTRPC_ADDRESS", "")
	e := &engine{root: root, bundle: t.TempDir()}
	e.spec(t, nil)
	return e
}

func (e *engine) spec(t *testing.T, annotations map[string]string) {
	t.Helper()
	data, err := json.Marshal(map[string]any{
		"annotations": annotations, "process": map[string]any{"args": []string{"sh"}, "cwd": "/"},
		"root": map[string]string{"path": "rootfs"}, "linux": map[string]any{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// call runs the binary; stderr must stay silent unless it fails.
func (e *engine) call(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	s := &Shim{Version: "test", Root: e.root, Stdin: bytes.NewReader(e.stdin), Stdout: &out, Stderr: &errs}
	status = s.Run(append([]string{"-bundle", e.bundle}, args...))
	if status == 0 && errs.Len() > 0 {
		t.Errorf("stderr of %q: %q", args, errs.String())
	}
	return status, out.String(), errs.String()
}

func (e *engine) start(t *testing.T, id string) string {
	t.Helper()
	status, out, errs := e.call(t, "-namespace", "ns", "-address", "/c.sock", "-publish-binary", "/c", "-id", id, "start")
	if status != 0 {
		t.Fatalf("start: %s", errs)
	}
	t.Cleanup(func() { e.delete(t, id) })
	return out
}

func (e *engine) delete(t *testing.T, id string) *taskv3.DeleteResponse {
	t.Helper()
	status, out, errs := e.call(t, "-namespace", "ns", "-address", "/c.sock", "-id", id, "delete")
	if status != 0 {
		t.Fatalf("delete: %s", errs)
	}
	r := new(taskv3.DeleteResponse)
	if err := proto.Unmarshal([]byte(out), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (e *engine) dir(id string) rundir.Dir { return rundir.Of(e.root, "/c.sock", "ns", id) }

// left is what a sandbox has left: its directory or a living shim.
func (e *engine) left(t *testing.T, id string) {
	t.Helper()
	if e.dir(id).Served() {
		t.Error("the shim lives")
	}
	if _, err := os.Stat(string(e.dir(id))); err == nil {
		t.Error("the sandbox's directory is there")
	}
}

func dial(t *testing.T, address string) *ttrpc.Client {
	t.Helper()
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		t.Fatalf("address %q", address)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestTheOldProtocolGetsABareAddressAndNothingElse(t *testing.T) {
	options, err := anypb.New(&runtimeoptions.Options{ConfigPath: "/etc/husk/config.toml"})
	if err != nil {
		t.Fatal(err)
	}
	withOptions, err := proto.Marshal(options)
	if err != nil {
		t.Fatal(err)
	}
	for name, stdin := range map[string][]byte{"CRI-O": nil, "containerd": withOptions} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.stdin = stdin
			address := e.start(t, "c")
			if want := "unix://" + e.dir("c").Join("shim.sock"); address != want {
				t.Fatalf("answer %q, want %q", address, want)
			}
			if left, err := os.ReadFile(filepath.Join(e.bundle, "address")); err != nil || string(left) != address {
				t.Errorf("the bundle's address is %q, %v", left, err)
			}
			r, err := taskv2.NewTTRPCTaskClient(dial(t, address)).Connect(t.Context(), &taskv2.ConnectRequest{ID: "c"})
			if err != nil || r.ShimPid == 0 {
				t.Fatalf("%v, %v", r, err)
			}
		})
	}
}

func TestTheNewProtocolGetsAResult(t *testing.T) {
	e := newEngine(t)
	var err error
	e.stdin, err = proto.Marshal(&bootapi.BootstrapParams{InstanceID: "c", Namespace: "ns"})
	if err != nil {
		t.Fatal(err)
	}
	result := new(bootapi.BootstrapResult)
	if err := proto.Unmarshal([]byte(e.start(t, "c")), result); err != nil {
		t.Fatal(err)
	}
	if result.Version != 3 || result.Protocol != "ttrpc" {
		t.Errorf("result %v", result)
	}
	r, err := taskv3.NewTTRPCTaskClient(dial(t, result.Address)).Connect(t.Context(), &taskv3.ConnectRequest{ID: "c"})
	if err != nil || r.ShimPid == 0 {
		t.Fatalf("%v, %v", r, err)
	}
}

func TestShutdownLeavesNothing(t *testing.T) {
	e := newEngine(t)
	client := taskv3.NewTTRPCTaskClient(dial(t, e.start(t, "c")))
	shutdown(t, client, "c")
	if _, err := os.Stat(string(e.dir("c"))); err == nil {
		t.Error("the sandbox's directory is there when Shutdown has answered")
	}
	// The id is free at once.
	e.start(t, "c")
}

func TestAFailedCreateLeavesAShimThatCanBeShutDown(t *testing.T) {
	e := newEngine(t)
	client := taskv3.NewTTRPCTaskClient(dial(t, e.start(t, "c")))
	for _, test := range []struct {
		options proto.Message
		want    string
	}{
		{&runtimeoptions.Options{ConfigPath: "/nonexistent/husk.toml"}, "/nonexistent/husk.toml"},
		{&runtimeoptions.Options{ConfigBody: []byte("kernle = 1")}, `unknown key "kernle"`},
		{&runtimeoptions.Options{ConfigBody: []byte(`kernel = "/nonexistent/kernel"`)}, "/nonexistent/kernel"},
		{&types.Mount{}, "containerd.types.Mount"},
	} {
		options, err := anypb.New(test.options)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Create(t.Context(), &taskv3.CreateTaskRequest{ID: "c", Bundle: e.bundle, Options: options})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q in it", err, test.want)
		}
	}
	if _, err := client.Delete(t.Context(), &taskv3.DeleteRequest{ID: "c"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("delete what was not created: %v", err)
	}
	if _, err := client.Checkpoint(t.Context(), &taskv3.CheckpointTaskRequest{ID: "c"}); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("checkpoint: %v", err)
	}
	shutdown(t, client, "c")
}

// shutdown ends the shim. As engines do, it takes a connection that is closed for an answer: the process may be gone
// before the answer is sent.
func shutdown(t *testing.T, client taskv3.TTRPCTaskService, id string) {
	t.Helper()
	if _, err := client.Shutdown(t.Context(), &taskv3.ShutdownRequest{ID: id}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		t.Fatal(err)
	}
}

// kill sends SIGKILL to the daemon and waits until it is gone.
func (e *engine) kill(t *testing.T, id, address string) {
	t.Helper()
	r, err := taskv3.NewTTRPCTaskClient(dial(t, address)).Connect(t.Context(), &taskv3.ConnectRequest{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(r.ShimPid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for e.dir(id).Served() {
		if ctx.Err() != nil {
			t.Fatal("the daemon does not end")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDeleteCleansUpAfterAKilledShim(t *testing.T) {
	e := newEngine(t)
	e.kill(t, "c", e.start(t, "c"))
	if r := e.delete(t, "c"); r.ExitStatus != 137 || r.ExitedAt == nil {
		t.Errorf("answer %v", r)
	}
	e.left(t, "c")
}

func TestDeleteTellsTheStatusThatAKilledShimKnew(t *testing.T) {
	e := newEngine(t)
	e.kill(t, "c", e.start(t, "c"))
	state, err := e.dir("c").Load()
	if err != nil {
		t.Fatal(err)
	}
	state.Containers = []rundir.Container{{ID: "c", Exit: &rundir.Exit{Status: 42, At: time.Unix(1, 0)}}}
	if err := e.dir("c").Save(state); err != nil {
		t.Fatal(err)
	}
	if r := e.delete(t, "c"); r.ExitStatus != 42 || r.ExitedAt.Seconds != 1 {
		t.Errorf("answer %v", r)
	}
	for _, dir := range []string{".", e.bundle} {
		if _, err := os.Stat(filepath.Join(dir, exitFile)); err == nil {
			t.Errorf("%s is left in %s", exitFile, dir)
		}
	}
}

// The engine asks of a pod's containers one after the other, of the sandbox first.
func TestDeleteTellsTheStatusOfEachOfAPod(t *testing.T) {
	e := newEngine(t)
	e.spec(t, map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod"})
	address := e.start(t, "pod")
	bundles := map[string]string{"pod": e.bundle}
	statuses := map[string]uint32{"pod": 137, "known": 3, "running": 137}
	state, err := e.dir("pod").Load()
	if err != nil {
		t.Fatal(err)
	}
	state.Containers = []rundir.Container{{ID: "pod", Bundle: e.bundle}}
	for _, id := range []string{"known", "running"} {
		e.bundle = t.TempDir()
		e.spec(t, map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"})
		bundles[id] = e.bundle
		state.Containers = append(state.Containers, rundir.Container{ID: id, Bundle: e.bundle})
	}
	state.Containers[1].Exit = &rundir.Exit{Status: 3, At: time.Unix(1, 0)}
	e.kill(t, "pod", address)
	if err := e.dir("pod").Save(state); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"pod", "known", "running"} {
		e.bundle = bundles[id]
		if r := e.delete(t, id); r.ExitStatus != statuses[id] {
			t.Errorf("%s: status %d, want %d", id, r.ExitStatus, statuses[id])
		}
	}
	e.bundle = bundles["known"]
	if r := e.delete(t, "known"); r.ExitStatus != 137 {
		t.Errorf("a status of long ago: %d", r.ExitStatus)
	}
	e.left(t, "pod")
}

func TestAStartThatCantAnswerLeavesNoShim(t *testing.T) {
	e := newEngine(t)
	if err := os.Mkdir(filepath.Join(e.bundle, "address"), 0o700); err != nil {
		t.Fatal(err)
	}
	status, _, errs := e.call(t, "-namespace", "ns", "-address", "/c.sock", "-publish-binary", "/c", "-id", "c", "start")
	if status == 0 || !strings.Contains(errs, "write the shim's address") {
		t.Errorf("%d, %q", status, errs)
	}
	e.left(t, "c")
}

func TestDeleteEndsAShimThatDoesNotAnswer(t *testing.T) {
	e := newEngine(t)
	e.start(t, "c")
	e.delete(t, "c")
	e.left(t, "c")
}

func TestDeleteOfNothingIsAnswered(t *testing.T) {
	e := newEngine(t)
	if r := e.delete(t, "c"); r.ExitStatus != 137 {
		t.Errorf("answer %v", r)
	}
}

func TestStartAfterAKilledShimCleansUpFirst(t *testing.T) {
	e := newEngine(t)
	e.kill(t, "c", e.start(t, "c"))
	client := taskv3.NewTTRPCTaskClient(dial(t, e.start(t, "c")))
	if _, err := client.Connect(t.Context(), &taskv3.ConnectRequest{ID: "c"}); err != nil {
		t.Fatal(err)
	}
}

func TestADaemonKilledBeforeItServesIsAnErrorOfStartAndLeavesNothing(t *testing.T) {
	e := newEngine(t)
	t.Setenv(deathEnv, "yes")
	status, out, errs := e.call(t, "-namespace", "ns", "-address", "/c.sock", "-id", "c", "start")
	if status == 0 || out != "" || !strings.Contains(errs, "killed before it served") {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
	e.left(t, "c")
}

func TestStartSweepsWhatAKilledStartLeft(t *testing.T) {
	e := newEngine(t)
	orphan := e.dir("orphan")
	if err := os.Mkdir(string(orphan), 0o700); err != nil {
		t.Fatal(err)
	}
	e.kill(t, "early", e.start(t, "early"))
	e.kill(t, "dead", e.start(t, "dead"))
	state, err := e.dir("dead").Load()
	if err != nil {
		t.Fatal(err)
	}
	state.Containers = []rundir.Container{{ID: "dead", Exit: &rundir.Exit{Status: 3}}}
	if err := e.dir("dead").Save(state); err != nil {
		t.Fatal(err)
	}
	e.start(t, "alive")
	e.left(t, "orphan")
	e.left(t, "early")
	if _, err := e.dir("dead").Load(); err != nil {
		t.Errorf("what delete has to answer for was swept: %v", err)
	}
	if !e.dir("alive").Served() {
		t.Error("a living sandbox was swept")
	}
	e.start(t, "another")
	if !e.dir("alive").Served() {
		t.Error("a living sandbox was swept")
	}
	for _, id := range []string{"dead", "alive", "another"} {
		e.delete(t, id)
	}
}

func TestAPodsContainersShareTheShimAndItsVersion(t *testing.T) {
	e := newEngine(t)
	e.spec(t, map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod"})
	pod := e.start(t, "pod") // by the old protocol: version 2
	e.bundle = t.TempDir()
	e.spec(t, map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"})
	if got := e.start(t, "c"); got != pod {
		t.Errorf("address %q, want the pod's %q", got, pod)
	}
	stdin, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: "c2", Namespace: "ns"})
	if err != nil {
		t.Fatal(err)
	}
	e.stdin = stdin
	result := new(bootapi.BootstrapResult)
	if err := proto.Unmarshal([]byte(e.start(t, "c2")), result); err != nil {
		t.Fatal(err)
	}
	if result.Address != pod || result.Version != 2 {
		t.Errorf("result %v: the version is the running shim's", result)
	}
	e.delete(t, "c")
	if !e.dir("pod").Served() {
		t.Error("deleting a container ended its pod")
	}
}

func TestAContainerOfNoPodIsNamed(t *testing.T) {
	e := newEngine(t)
	e.spec(t, map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"})
	status, _, errs := e.call(t, "-namespace", "ns", "-id", "c", "start")
	if status == 0 || !strings.Contains(errs, "sandbox pod, which is not running") {
		t.Errorf("%d, %q", status, errs)
	}
}

func TestInfo(t *testing.T) {
	e := &engine{}
	status, out, _ := e.call(t, "-info")
	info := new(types.RuntimeInfo)
	if err := proto.Unmarshal([]byte(out), info); status != 0 || err != nil || info.Name != "io.containerd.husk.v2" {
		t.Errorf("%d, %v, %v", status, info, err)
	}
	known := new(features.Features)
	if err := json.Unmarshal(info.Features.GetValue(), known); err != nil || !*known.Linux.MountExtensions.IDMap.Enabled {
		t.Errorf("%v, %v", known, err)
	}
	if status, out, _ := e.call(t, "-v"); status != 0 || !strings.Contains(out, "test") {
		t.Errorf("%d, %q", status, out)
	}
}

func TestABadCallIsAnError(t *testing.T) {
	e := &engine{bundle: t.TempDir(), root: t.TempDir()}
	for _, args := range [][]string{
		{"start"}, {"-id", "c"}, {"-id", "c", "dance"}, {"-nosuch"}, {"-id", "c", "start"}, // no config.json
	} {
		if status, out, errs := e.call(t, args...); status == 0 || out != "" || errs == "" {
			t.Errorf("%q: %d, %q, %q", args, status, out, errs)
		}
	}
}

func TestOptionsAreNotTakenForBootstrapParams(t *testing.T) {
	// An Any's type URL is field 1 and its value field 2, both strings as in BootstrapParams.
	options, err := proto.Marshal(&anypb.Any{TypeUrl: "c", Value: []byte("other")})
	if err != nil {
		t.Fatal(err)
	}
	if p := parseParams(options, "c", "ns"); p != nil {
		t.Errorf("parameters %v", p)
	}
}
