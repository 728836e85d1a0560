// Package layout holds the rules of who may import whom, so that a device stays a device and the guest's agent stays
// small. A rule that has to change is changed here, with its reason.
package layout

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/huskvm/husk/"

type pkg struct {
	ImportPath   string
	Name         string
	Imports      []string
	Deps         []string
	GoFiles      []string
	IgnoredFiles []string `json:"IgnoredGoFiles"`
	Dir          string
	Standard     bool
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "no_grpc", "-json=ImportPath,Name,Imports,Deps,GoFiles,IgnoredGoFiles,Dir", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
}

// below says whether a path is dir or in it.
func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// forbid fails for each package chosen by of that has one of deps that is not allowed.
func forbid(t *testing.T, all []pkg, rule string, of func(string) bool, deps func(pkg) []string, bad func(string) bool) {
	t.Helper()
	matched := false
	for _, p := range all {
		if !of(p.ImportPath) {
			continue
		}
		matched = true
		for _, d := range deps(p) {
			if d = strings.TrimPrefix(d, module); d != p.ImportPath && bad(d) {
				t.Errorf("%s imports %s: %s", p.ImportPath, d, rule)
			}
		}
	}
	if !matched {
		t.Errorf("no package is under the rule %q", rule)
	}
}

func direct(p pkg) []string { return p.Imports }
func indeed(p pkg) []string { return p.Deps }

func in(dirs ...string) func(string) bool {
	return func(p string) bool { return slices.ContainsFunc(dirs, func(d string) bool { return below(p, d) }) }
}

func TestDependencies(t *testing.T) {
	all := packages(t)
	const containerd = "github.com/containerd/containerd"

	forbid(t, all, "the agent knows nothing of the host's side", in("guest-agent"), indeed,
		func(d string) bool {
			return in("shim", "vmm")(d) || strings.HasPrefix(d, containerd)
		})
	forbid(t, all, "the VMM is a library without containerd and the shim", in("vmm"), indeed,
		func(d string) bool { return below(d, "shim") || strings.HasPrefix(d, containerd) })
	forbid(t, all, "shim/internal/sandbox alone speaks to the VMM", func(p string) bool {
		return below(p, "shim/internal") && p != "shim/internal/sandbox"
	}, direct, in("vmm/client"))
	netOnly := in("shim/cmd/husk-net", "shim/internal/usernet")
	forbid(t, all, "husk-net alone carries a network stack", func(p string) bool { return !netOnly(p) }, indeed,
		func(d string) bool {
			return below(d, "gvisor.dev")
		})
	leaves := in("bpf", "vmm/kvm", "vmm/memory", "vmm/eventfd", "vmm/bus")
	forbid(t, all, "leaves import the standard library and x/sys only", leaves, direct,
		func(d string) bool {
			return in("vmm", "shim", "proto", "guest-agent")(d) || strings.Contains(d, ".") && !strings.HasPrefix(d, "golang.org/x/sys/")
		})

	transports := in("vmm/virtio/mmio", "vmm/vhostuser")
	devices := func(p string) bool {
		return below(p, "vmm/virtio") && p != "vmm/virtio" && !in("vmm/virtio/queue", "vmm/virtio/virtiotest", "vmm/virtio/mmio")(p)
	}
	device := func(p string) string {
		return strings.Join(strings.Split(p, "/")[:min(3, strings.Count(p, "/")+1)], "/")
	}
	for _, p := range all {
		if !devices(p.ImportPath) {
			continue
		}
		own := device(p.ImportPath)
		forbid(t, all, "a device knows no transport, no KVM and no other device",
			func(q string) bool { return q == p.ImportPath }, direct, func(d string) bool {
				return below(d, "vmm/kvm") || transports(d) || devices(d) && !below(d, own)
			})
	}
	forbid(t, all, "a transport knows no device", transports, direct, devices)
}

func TestUnsafeIsInFilesThatSaySo(t *testing.T) {
	for _, p := range packages(t) {
		if below(p.ImportPath, "proto") {
			continue
		}
		for _, f := range slices.Concat(p.GoFiles, p.IgnoredFiles) {
			out, err := exec.Command("grep", "-l", `^\s*\(import \)\?"unsafe"`, path.Join(p.Dir, f)).Output()
			if base := strings.TrimSuffix(f, ".go"); err == nil && len(out) > 0 && !strings.Contains(base, "_unsafe") {
				t.Errorf("%s/%s imports unsafe: move that to a file named *_unsafe.go", p.ImportPath, f)
			}
		}
	}
}

func TestNamesSayWhatIsInside(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains([]string{"util", "utils", "common", "helpers", "types"}, p.Name) {
			t.Errorf("%s: a name for anything is a name for nothing", p.ImportPath)
		}
	}
}
