package deploy

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	node "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// handlers are the runtimes that a drop-in configures, each with its keys.
func handlers(t *testing.T, file string, path ...string) map[string]map[string]any {
	t.Helper()
	data, err := Files.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var table map[string]any
	if err := toml.Unmarshal(data, &table); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, key := range path {
		table, _ = table[key].(map[string]any)
	}
	list := map[string]map[string]any{}
	for name, handler := range table {
		list[name], _ = handler.(map[string]any)
	}
	return list
}

func TestContainerdsDropIns(t *testing.T) {
	for file, want := range map[string]struct {
		plugin   string
		handlers []string
	}{
		"containerd/husk-1.x.toml": {"io.containerd.grpc.v1.cri", []string{"husk"}},
		"containerd/husk-2.x.toml": {"io.containerd.cri.v1.runtime", []string{"husk", "husk-sandbox"}},
	} {
		list := handlers(t, file, "plugins", want.plugin, "containerd", "runtimes")
		for _, name := range want.handlers {
			if h := list[name]; h["runtime_type"] != "io.containerd.husk.v2" || h["privileged_without_host_devices"] != true {
				t.Errorf("%s: %s is %v", file, name, h)
			}
		}
		if len(list) != len(want.handlers) {
			t.Errorf("%s has %v", file, list)
		}
	}
}

// The keys of CRI-O's RuntimeHandler that its releases since 1.20 know, and what it makes of a runtime of type "vm".
func TestCRIOsDropIn(t *testing.T) {
	list := handlers(t, "crio/husk.conf", "crio", "runtime", "runtimes")
	h := list["husk"]
	if len(list) != 1 || h["runtime_type"] != "vm" || h["privileged_without_host_devices"] != true {
		t.Errorf("%v", list)
	}
	for key := range h {
		if !slices.Contains([]string{"runtime_path", "runtime_type", "runtime_root", "runtime_config_path", "privileged_without_host_devices", "allowed_annotations"}, key) {
			t.Errorf("CRI-O has no key %s", key)
		}
	}
	path, _ := h["runtime_path"].(string)
	if !regexp.MustCompile(`^containerd-shim-([a-zA-Z0-9\-\+])+-v2$`).MatchString(filepath.Base(path)) || !filepath.IsAbs(path) {
		t.Errorf("CRI-O refuses runtime_path %q", path)
	}
	// husk takes every directory in its own for a sandbox.
	if root, _ := h["runtime_root"].(string); !filepath.IsAbs(root) || strings.HasPrefix(root, "/run/husk/") || root == "/run/husk" {
		t.Errorf("runtime_root is %q", root)
	}
}

// objects are the documents of a manifest, with nothing in them that Kubernetes does not know.
func objects[T any](t *testing.T, file string) (list []T) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range bytes.Split(data, []byte("\n---\n")) {
		var object T
		if err := yaml.UnmarshalStrict(document, &object); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		list = append(list, object)
	}
	return list
}

const nodeLabel = "io.husk/node"

func TestRuntimeClasses(t *testing.T) {
	var names []string
	for _, class := range objects[node.RuntimeClass](t, "kubernetes/runtimeclass.yaml") {
		names = append(names, class.Name)
		if class.Kind != "RuntimeClass" || class.APIVersion != "node.k8s.io/v1" || class.Handler != class.Name {
			t.Errorf("%+v", class)
		}
		if class.Scheduling.NodeSelector[nodeLabel] != "install" {
			t.Errorf("%s goes to nodes %v", class.Name, class.Scheduling.NodeSelector)
		}
		memory := class.Overhead.PodFixed[core.ResourceMemory]
		if least := resource.MustParse("64Mi"); memory.Cmp(least) < 0 || class.Overhead.PodFixed.Cpu().IsZero() {
			t.Errorf("%s has overhead %v", class.Name, class.Overhead.PodFixed)
		}
	}
	if !slices.Equal(names, []string{"husk", "husk-sandbox"}) {
		t.Errorf("classes %v", names)
	}
}

func TestTheExampleIsAPodOfHusk(t *testing.T) {
	for _, pod := range objects[core.Pod](t, "kubernetes/pod.yaml") {
		if c := pod.Spec.RuntimeClassName; pod.Kind != "Pod" || c == nil || *c != "husk" || len(pod.Spec.Containers) != 1 {
			t.Errorf("%+v", pod)
		}
	}
}

func TestDaemonSets(t *testing.T) {
	commands := map[string]string{}
	for _, set := range objects[apps.DaemonSet](t, "kubernetes/daemonset.yaml") {
		pod := set.Spec.Template.Spec
		if set.Kind != "DaemonSet" || set.APIVersion != "apps/v1" || len(pod.Containers) != 1 {
			t.Fatalf("%+v", set)
		}
		c := pod.Containers[0]
		commands[pod.NodeSelector[nodeLabel]] = strings.Join(append(c.Command, c.Args...), " ")
		for label, value := range set.Spec.Selector.MatchLabels {
			if set.Spec.Template.Labels[label] != value {
				t.Errorf("%s does not select its pods", set.Name)
			}
		}
		if !pod.HostPID || c.SecurityContext == nil || c.SecurityContext.Privileged == nil || !*c.SecurityContext.Privileged ||
			len(c.VolumeMounts) != 1 || c.VolumeMounts[0].MountPath != "/host" || pod.Volumes[0].HostPath.Path != "/" {
			t.Errorf("%s does not have the host as its command says: %+v", set.Name, pod)
		}
		if pod.RuntimeClassName != nil {
			t.Errorf("%s is a pod of husk itself", set.Name)
		}
	}
	if commands["install"] != "/husk/husk install -root /host -stay" || commands["remove"] != "/husk/husk remove -root /host -wait -stay" || len(commands) != 2 {
		t.Errorf("%q", commands)
	}
}
