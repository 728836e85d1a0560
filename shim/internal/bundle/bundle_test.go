package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/shim/internal/config"
)

func defaults() *config.Config {
	return &config.Config{
		DefaultVCPUs: 1, DefaultMemory: 512 << 20, GuestReserve: 96 << 20,
		AllowedAnnotations: []string{config.AnnotationVCPUs, config.AnnotationMemory},
	}
}

func minimal() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Args: []string{"sh"}},
		Root:    &specs.Root{Path: "rootfs"},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{}},
	}
}

func ptr[T any](v T) *T { return &v }

func TestIdentify(t *testing.T) {
	for _, test := range []struct {
		name        string
		annotations map[string]string
		want        Identity
	}{
		{"plain", nil, Identity{"c", Single}},
		{"containerd pod", map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "c"}, Identity{"c", Pod}},
		{"containerd member", map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "p"}, Identity{"p", Member}},
		{"CRI-O pod", map[string]string{"io.kubernetes.cri-o.ContainerType": "sandbox", "io.kubernetes.cri-o.SandboxID": "c"}, Identity{"c", Pod}},
		{"CRI-O member", map[string]string{"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "p"}, Identity{"p", Member}},
		{"member of nothing", map[string]string{"io.kubernetes.cri.container-type": "container"}, Identity{"c", Single}},
	} {
		if got := Identify("c", test.annotations); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestSizing(t *testing.T) {
	cpu := func(quota int64, period uint64) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period} }
	}
	memory := func(limit int64) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit} }
	}
	annotation := func(k, v string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Annotations = map[string]string{k: v} }
	}
	const mib = 1 << 20
	for _, test := range []struct {
		name string
		set  func(*specs.Spec)
		want Size
	}{
		{"defaults", func(*specs.Spec) {}, Size{1, 512 * mib}},
		{"no resources", func(s *specs.Spec) { s.Linux.Resources = nil }, Size{1, 512 * mib}},
		{"half a CPU", cpu(50_000, 100_000), Size{1, 512 * mib}},
		{"one and a half", cpu(150_000, 100_000), Size{2, 512 * mib}},
		{"exactly two", cpu(200_000, 100_000), Size{2, 512 * mib}},
		{"no quota", cpu(-1, 100_000), Size{1, 512 * mib}},
		{"no period", func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(int64(300_000))} }, Size{3, 512 * mib}},
		{"more than there can be", cpu(1<<40, 1000), Size{MaxVCPUs, 512 * mib}},
		{"memory", memory(256 * mib), Size{1, (256 + 96 + 4) * mib}},
		{"memory of an odd size", memory(256*mib + 1), Size{1, (256 + 96 + 4 + 2) * mib}},
		{"unlimited memory", memory(-1), Size{1, 512 * mib}},
		{"kubernetes' unlimited memory", memory(1<<63 - 4096), Size{1, 512 * mib}},
		{"annotated CPUs", annotation(config.AnnotationVCPUs, "4"), Size{4, 512 * mib}},
		{"annotated memory", annotation(config.AnnotationMemory, "1Gi"), Size{1, 1024 * mib}},
	} {
		spec := minimal()
		test.set(spec)
		got, err := SizeOf(spec, defaults(), Host{})
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v; want %+v", test.name, got, err, test.want)
		}
	}
}

func TestSizingNamesABadAnnotation(t *testing.T) {
	for _, test := range []struct{ key, value, want string }{
		{config.AnnotationVCPUs, "0", "from 1 to"},
		{config.AnnotationVCPUs, "many", "many"},
		{config.AnnotationMemory, "much", "much"},
		{config.AnnotationMemory, "8MiB", "too little memory"},
	} {
		spec := minimal()
		spec.Annotations = map[string]string{test.key: test.value}
		_, err := SizeOf(spec, defaults(), Host{})
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.key) {
			t.Errorf("%s=%s: error %v", test.key, test.value, err)
		}
		c := defaults()
		c.AllowedAnnotations = nil
		if _, err := SizeOf(spec, c, Host{}); err == nil || !strings.Contains(err.Error(), "allowed_annotations") {
			t.Errorf("%s not allowed: error %v", test.key, err)
		}
	}
}

func TestTheGuestsSpecNamesNothingOfTheHost(t *testing.T) {
	spec := minimal()
	spec.Process.ApparmorProfile = "cri-containerd.apparmor.d"
	spec.Process.SelinuxLabel = "l"
	spec.Linux.CgroupsPath = "system.slice:husk:c"
	spec.Linux.MountLabel = "l"
	spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/l"}
	spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"}, {Type: specs.NetworkNamespace, Path: "/run/netns/x"}, {Type: specs.MountNamespace},
	}
	spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}, {Path: "/dev/sda", Type: "b", Major: 8},
	}
	spec.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "3", Quota: ptr(int64(1000))}
	fuse := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rwm"}
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
		{Access: "rwm"}, {Allow: true, Type: "b", Access: "m"}, fuse,
		{Allow: true, Type: "c", Major: ptr(int64(136)), Access: "rwm"},
		{Allow: true, Type: "b", Major: ptr(int64(8)), Minor: ptr(int64(0)), Access: "rwm"},
		{Type: "b", Major: ptr(int64(9))},
	}
	before, _ := json.Marshal(spec)

	g, err := ForGuest("c", spec)
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := json.Marshal(spec); string(after) != string(before) {
		t.Error("the host's specification was changed")
	}
	want := minimal()
	want.Linux = &specs.Linux{
		Seccomp:    &specs.LinuxSeccomp{DefaultAction: specs.ActAllow},
		Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
		Devices:    []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}},
		Resources: &specs.LinuxResources{
			CPU: &specs.LinuxCPU{Quota: ptr(int64(1000))},
			Devices: []specs.LinuxDeviceCgroup{
				{Access: "rwm"}, {Allow: true, Type: "b", Access: "m"}, fuse,
				{Allow: true, Type: "c", Major: ptr(int64(136)), Access: "rwm"}, {Type: "b", Major: ptr(int64(9))},
			},
		},
	}
	if diff := cmp.Diff(want, g.Spec); diff != "" {
		t.Error(diff)
	}
	notes := strings.Join(g.Notes, "\n")
	for _, want := range []string{"/dev/sda", "apparmorProfile", "selinuxLabel", "b 8:0"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note of %s in %q", want, g.Notes)
		}
	}
	if len(g.Notes) != 4 {
		t.Errorf("notes %q", g.Notes)
	}
}

func TestAPodsContainersShareItsNamespaces(t *testing.T) {
	spec := minimal()
	spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "p"}
	spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace, Path: "/proc/7/ns/ipc"}, {Type: specs.UTSNamespace, Path: "/proc/7/ns/uts"},
		{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/x"}, {Type: specs.CgroupNamespace, Path: "/proc/7/ns/cgroup"},
	}
	g, err := ForGuest("c", spec)
	if err != nil {
		t.Fatal(err)
	}
	want := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace, Path: "container:p"}, {Type: specs.UTSNamespace, Path: "container:p"},
		{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
	}
	if diff := cmp.Diff(want, g.Spec.Linux.Namespaces); diff != "" {
		t.Error(diff)
	}
}

func TestAContainerJoinsTheOneThatItsPIDNamespaceIsOf(t *testing.T) {
	ids := map[uint32]string{7: "p", 8: "other"}
	for path, want := range map[string]string{
		"/proc/7/ns/pid": "container:p", "/proc/8/ns/pid": "container:other", "/var/run/pidns/1": "container:p", "": "",
	} {
		spec := minimal()
		spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "p"}
		spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.IPCNamespace, Path: "/proc/7/ns/ipc"}, {Type: specs.PIDNamespace, Path: path}}
		g, err := ForGuest("c", spec)
		if err == nil {
			err = g.JoinTarget(spec, ids)
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := g.Spec.Linux.Namespaces; n[0].Path != "container:p" || n[1].Path != want {
			t.Errorf("%q becomes %v", path, n)
		}
		spec.Linux.Namespaces[1].Path = "/proc/9/ns/pid"
		if err := g.JoinTarget(spec, ids); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "/proc/9/ns/pid") {
			t.Errorf("a process that is nobody's: %v", err)
		}
	}
}

func TestLimitsThatAreUpdatedNameNothingOfTheHost(t *testing.T) {
	update := func(text string) (Update, error) {
		return UpdateOf([]byte(text), minimal(), []Device{{254, 0}}, Size{1, 1 << 30}, defaults())
	}
	got, err := update(`{"cpu":{"cpus":"0-63","mems":"0","shares":100},"blockIO":{"weight":10},"unified":{"memory.high":"5"}}`)
	if want := `{"cpu":{"shares":100},"unified":{"memory.high":"5"}}`; err != nil || string(got.Guest) != want {
		t.Errorf("%s, %v", got.Guest, err)
	}
	const throttle = `{"major":%d,"minor":0,"rate":5}`
	own, other := fmt.Sprintf(throttle, 254), fmt.Sprintf(throttle, 8)
	got, err = update(`{"blockIO":{"throttleWriteBpsDevice":[` + own + "," + other + `],"throttleReadIOPSDevice":[` + other + `]}}`)
	if want := `{"blockIO":{"throttleWriteBpsDevice":[` + own + `]}}`; err != nil || string(got.Guest) != want {
		t.Errorf("%s, %v", got.Guest, err)
	}
	if io := got.IO; io == nil || len(io.ThrottleWriteBpsDevice) != 1 || io.ThrottleWriteBpsDevice[0].Major != 8 || len(io.ThrottleReadIOPSDevice) != 1 {
		t.Errorf("on the host: %+v", io)
	}
	if _, err := update("{"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %v", err)
	}
}

func TestHooksOfTheContainerGoToTheGuest(t *testing.T) {
	spec := minimal()
	want := &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/a"}}, StartContainer: []specs.Hook{{Path: "/b"}}}
	spec.Hooks = want
	g, err := ForGuest("c", spec)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, g.Spec.Hooks); diff != "" {
		t.Error(diff)
	}
}

func TestEveryBindIsAShareOfItsOwn(t *testing.T) {
	spec := minimal()
	spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/etc/resolv.conf", Type: "bind", Source: "/run/r", Options: []string{"rbind", "ro"}},
		{Destination: "/data", Source: "/srv", Options: []string{"rbind", "rprivate"}},
		{Destination: "/again", Type: "none", Source: "/srv", Options: []string{"bind"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
	}
	g, err := ForGuest("c", spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Binds) != 3 {
		t.Fatalf("binds %+v", g.Binds)
	}
	names := map[string]bool{}
	for i, want := range []Share{{Source: "/run/r", Recursive: true, ReadOnly: true}, {Source: "/srv", Recursive: true}, {Source: "/srv"}} {
		got := g.Binds[i]
		if names[got.Name] || len(got.Name) > 20 || strings.Contains(got.Name, "/") {
			t.Errorf("name %q", got.Name)
		}
		names[got.Name] = true
		if m := g.Spec.Mounts[i+1+btoi(i > 2)]; m.Source != GuestPath(got.Name) {
			t.Errorf("mount of %s has source %s", m.Destination, m.Source)
		}
		got.Name = ""
		if got != want {
			t.Errorf("bind %d: %+v, want %+v", i, got, want)
		}
	}
	for _, i := range []int{0, 4} {
		if diff := cmp.Diff(spec.Mounts[i], g.Spec.Mounts[i]); diff != "" {
			t.Error(diff)
		}
	}
	if len(g.RootID) > 20 {
		t.Errorf("root id %q is too long for a serial", g.RootID)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"{", "parse"},
		{"{}", "not a Linux container's"},
		{`{"process": {"args": []}, "root": {"path": "r"}, "linux": {}}`, "process.args is empty"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v", test.text, err)
		}
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("error %v", err)
	}
}

func TestRelativeSourcesAreTheBundles(t *testing.T) {
	dir := t.TempDir()
	text := `{"process": {"args": ["sh"]}, "root": {"path": "r"}, "linux": {}, "mounts": [
		{"destination": "/a", "type": "bind", "source": "data"}, {"destination": "/b", "source": "/abs", "options": ["rbind"]},
		{"destination": "/c", "type": "tmpfs", "source": "tmpfs"}, {"destination": "/a", "type": "bind", "options": ["remount", "ro"]}]}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	spec, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{filepath.Join(dir, "data"), "/abs", "tmpfs", ""} {
		if got := spec.Mounts[i].Source; got != want {
			t.Errorf("mount %d: source %q, want %q", i, got, want)
		}
	}
	if g, err := ForGuest("c", spec); err != nil || len(g.Binds) != 2 {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestHostRoot(t *testing.T) {
	spec := minimal()
	if got, err := HostRoot("/b", spec); err != nil || got != "/b/rootfs" {
		t.Errorf("%s, %v", got, err)
	}
	spec.Root.Path = "/abs"
	if got, err := HostRoot("/b", spec); err != nil || got != "/abs" {
		t.Errorf("%s, %v", got, err)
	}
	spec.Root.Path = ""
	if _, err := HostRoot("/b", spec); err == nil {
		t.Error("an empty path is taken")
	}
}

func TestAnExecsProcessLosesTheHostsLabels(t *testing.T) {
	p, err := ProcessForGuest([]byte(`{"args":["id"],"cwd":"/","apparmorProfile":"x","selinuxLabel":"y"}`))
	if err != nil || p.ApparmorProfile != "" || p.SelinuxLabel != "" || p.Args[0] != "id" {
		t.Fatalf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "{}", "[]"} {
		if _, err := ProcessForGuest([]byte(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
