// Command image writes the OCI image that the tests and the demo run: busybox, and a few files to trip over.
//
//	image -o image.tar [-busybox /bin/busybox]
//
// With -pause it is the image of a pod's first container: nothing but a process that waits, and reaps.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// What the images are called once imported.
const (
	name  = "husk.test/busybox:latest"
	pause = "husk.test/pause:latest"
)

func main() {
	out := flag.String("o", "image.tar", "where to write the image")
	busybox := flag.String("busybox", "/bin/busybox", "a static busybox")
	pausing := flag.Bool("pause", false, "write the pause image instead")
	flag.Parse()
	if err := write(*out, *busybox, *pausing); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(out, busybox string, pausing bool) error {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return fmt.Errorf("read busybox (install the package busybox-static): %w", err)
	}
	if pausing {
		return writePause(out, binary)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	layer, err := rootfs(binary, strings.Fields(string(applets)))
	if err != nil {
		return err
	}
	image, err := layout(name, []string{"sh"}, layer)
	if err != nil {
		return err
	}
	return os.WriteFile(out, image, 0o644)
}

// writePause writes the pause image. The shell's wait reaps whatever else becomes its child.
func writePause(out string, busybox []byte) error {
	a := newArchive()
	a.dir("bin")
	a.file("bin/busybox", 0o755, busybox)
	a.link("bin/sh", "busybox")
	layer, err := a.bytes()
	if err != nil {
		return err
	}
	image, err := layout(pause, []string{"/bin/sh", "-c", "trap exit INT TERM; while :; do busybox sleep 3600 & wait; done"}, layer)
	if err != nil {
		return err
	}
	return os.WriteFile(out, image, 0o644)
}

// rootfs is the image's one layer.
func rootfs(busybox []byte, applets []string) ([]byte, error) {
	a := newArchive()
	for _, d := range []string{"bin", "etc", "root", "tmp", "proc", "sys", "dev", "home", "home/user", "srv"} {
		a.dir(d)
	}
	a.file("bin/busybox", 0o755, busybox)
	for _, applet := range applets {
		if applet != "busybox" {
			a.link("bin/"+applet, "busybox")
		}
	}
	a.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"))
	a.file("etc/group", 0o644, []byte("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"))
	a.file("srv/not-executable", 0o644, []byte("#!/bin/sh\n"))
	a.file("srv/bad-format", 0o755, []byte("this is no program\x00\n"))
	a.file("srv/script", 0o755, []byte("#!/bin/sh\nexit 9\n"))
	return a.bytes()
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layout is an OCI image layout with a single image of a single layer (OCI image-spec image-layout.md).
func layout(name string, command []string, layer []byte) ([]byte, error) {
	a := newArchive()
	a.dir("blobs")
	a.dir("blobs/sha256")
	put := func(mediaType string, b []byte) descriptor {
		sum := sha256.Sum256(b)
		digest := hex.EncodeToString(sum[:])
		a.file("blobs/sha256/"+digest, 0o644, b)
		return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(b)}
	}
	putJSON := func(mediaType string, v any) (descriptor, error) {
		b, err := json.Marshal(v)
		return put(mediaType, b), err
	}
	l := put("application/vnd.oci.image.layer.v1.tar", layer)
	config, err := putJSON("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"Cmd": command,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{l.Digest}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := putJSON("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        config,
		"layers":        []descriptor{l},
	})
	if err != nil {
		return nil, err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err != nil {
		return nil, err
	}
	a.file("index.json", 0o644, index)
	a.file("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return a.bytes()
}

// archive is a tar that keeps the first error until the end.
type archive struct {
	buf bytes.Buffer
	tar *tar.Writer
	err error
}

func newArchive() *archive {
	a := &archive{}
	a.tar = tar.NewWriter(&a.buf)
	return a
}

func (a *archive) dir(name string) {
	a.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
}

func (a *archive) link(name, target string) {
	a.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (a *archive) file(name string, mode int64, b []byte) {
	a.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(b))}, b)
}

func (a *archive) add(h *tar.Header, b []byte) {
	if a.err != nil {
		return
	}
	h.ModTime = time.Unix(0, 0)
	if a.err = a.tar.WriteHeader(h); a.err == nil {
		_, a.err = a.tar.Write(b)
	}
}

func (a *archive) bytes() ([]byte, error) {
	if a.err == nil {
		a.err = a.tar.Close()
	}
	return a.buf.Bytes(), a.err
}
