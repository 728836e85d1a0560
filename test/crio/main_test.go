// Package crio drives husk's shim exactly as CRI-O does for a runtime of type "vm", without CRI-O: runtime_test.go is its
// internal/oci/runtime_vm.go, pod_test.go what its server prepares and takes away around that. Where the two differ from
// containerd: the root is mounted by the engine, `start` is called for each container and no `delete` ever, there is no
// socket for events, and the `address` and `oom` files of the bundle are read. Everything here needs root.
package crio

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	bin     = flag.String("bin", "", "directory of husk's programs and assets")
	image   = flag.String("image", "", "the test image's tar")
	pause   = flag.String("pause", "", "the pause image's tar")
	backend = flag.String("backend", "auto", "what runs the guests: kvm, qemu or auto")

	// state is where everything is: storage/, run/ and layers/.
	state string
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "crio:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if *bin == "" || *image == "" || *pause == "" {
		return 2, fmt.Errorf("-bin, -image and -pause are required; use make e2e")
	}
	dir, err := os.MkdirTemp("", "crio")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	state = dir
	// As systemd leaves the host. CRI-O mounts roots while shims run, and those have to see them.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return 1, fmt.Errorf("share the mounts: %w", err)
	}
	if err := unpack(*image, layer("image")); err != nil {
		return 1, err
	}
	if err := unpack(*pause, layer("pause")); err != nil {
		return 1, err
	}
	registerTypes()
	config := fmt.Appendf(nil, "vmm = %q\ndefault_memory = \"256MiB\"\n", *backend)
	if err := os.WriteFile(huskConfig(), config, 0o600); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func layer(name string) string { return filepath.Join(state, "layers", name) }

// huskConfig is what runtime_config_path of CRI-O's configuration names.
func huskConfig() string { return filepath.Join(state, "husk.toml") }

// unpack makes dir of the layers of an image.
func unpack(tar, dir string) error {
	layout, err := os.MkdirTemp(state, "layout")
	if err != nil {
		return err
	}
	defer os.RemoveAll(layout)
	if err := untar(tar, layout); err != nil {
		return err
	}
	var index struct{ Manifests []struct{ Digest string } }
	if err := decode(filepath.Join(layout, "index.json"), &index); err != nil {
		return err
	}
	blob := func(digest string) string { return filepath.Join(layout, "blobs/sha256", digest[len("sha256:"):]) }
	var manifest struct{ Layers []struct{ Digest string } }
	if err := decode(blob(index.Manifests[0].Digest), &manifest); err != nil {
		return err
	}
	for _, l := range manifest.Layers {
		if err := untar(blob(l.Digest), dir); err != nil {
			return err
		}
		if err := whiteOut(dir); err != nil {
			return err
		}
	}
	return nil
}

// whiteOut removes what a layer says is gone (OCI image-spec layer.md).
func whiteOut(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		gone, ok := strings.CutPrefix(filepath.Base(path), ".wh.")
		if err != nil || !ok {
			return err
		}
		return errors.Join(os.Remove(path), os.RemoveAll(filepath.Join(filepath.Dir(path), gone)))
	})
}

func untar(tar, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("tar", "-xf", tar, "-C", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", tar, err, out)
	}
	return nil
}

func decode(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// eventually waits for a condition, for a minute at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
