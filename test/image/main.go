// Command image writes OCI images: the one that the tests and the demo run, which is a layer of busybox and one of a few
// files to trip over, and others of a tar of their root.
//
//	image -o image.tar [-busybox /bin/busybox]
//	image -o image.tar -layer root.tar -name NAME [-command COMMAND]
//	image -o image.tar -pause
//
// With -pause it is the image of a pod's first container: nothing but a process that waits, and reaps.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// What the images are called once imported, unless they get another name.
const (
	busyboxName = "husk.test/busybox:latest"
	pauseName   = "husk.test/pause:latest"
)

func main() {
	out := flag.String("o", "image.tar", "where to write the image")
	name := flag.String("name", "", "what the image is called once imported")
	layer := flag.String("layer", "", "a tar of the image's root; empty makes one of busybox")
	busybox := flag.String("busybox", "/bin/busybox", "a static busybox")
	command := flag.String("command", "", "what the image's containers execute, unless they are told")
	pausing := flag.Bool("pause", false, "write the pause image instead")
	flag.Parse()
	i := image{name: busyboxName, command: []string{"sh"}}
	if *pausing {
		i = image{name: pauseName, command: pauseCommand}
	}
	if *name != "" {
		i.name = *name
	}
	if *command != "" {
		i.command = strings.Fields(*command)
	}
	if err := write(*out, i, *layer, *busybox, *pausing); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// image is what an image says of itself.
type image struct {
	name    string
	command []string
}

// pauseCommand waits, and reaps whatever becomes the shell's child.
var pauseCommand = []string{"/bin/sh", "-c", "trap exit INT TERM; while :; do busybox sleep 3600 & wait; done"}

func write(out string, i image, layer, busybox string, pausing bool) error {
	layers, err := open(layer, busybox, pausing)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(layout(f, i, layers), f.Close())
}

// blob is what goes into an image's layout.
type blob struct {
	io.ReadSeeker
	size int64
}

func blobOf(b []byte) blob { return blob{bytes.NewReader(b), int64(len(b))} }

// open returns the image's layers, the lowest first.
func open(layer, busybox string, pausing bool) ([]blob, error) {
	if layer == "" {
		return busyboxLayers(busybox, pausing)
	}
	f, err := os.Open(layer) // until the end of the program
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return []blob{{f, st.Size()}}, nil
}

func busyboxLayers(busybox string, pausing bool) ([]blob, error) {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("read busybox (install the package busybox-static): %w", err)
	}
	if pausing {
		root, err := pauseRoot(binary)
		return []blob{blobOf(root)}, err
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	root, err := rootfs(binary, strings.Fields(string(applets)))
	if err != nil {
		return nil, err
	}
	changes, err := filesToTripOver()
	return []blob{blobOf(root), blobOf(changes)}, err
}

// pauseRoot is the one layer of the pause image.
func pauseRoot(busybox []byte) ([]byte, error) {
	var layer bytes.Buffer
	a := newArchive(&layer)
	a.dir("bin")
	a.file("bin/busybox", 0o755, busybox)
	a.link("bin/sh", "busybox")
	err := a.close()
	return layer.Bytes(), err
}

// rootfs is the lower layer of the image of busybox.
func rootfs(busybox []byte, applets []string) ([]byte, error) {
	var layer bytes.Buffer
	a := newArchive(&layer)
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
	a.file("srv/only-below", 0o644, []byte("the upper layer takes this away\n"))
	err := a.close()
	return layer.Bytes(), err
}

// filesToTripOver is the upper one. A file with a whiteout's name says that the lower's is gone (OCI image-spec layer.md).
func filesToTripOver() ([]byte, error) {
	var layer bytes.Buffer
	a := newArchive(&layer)
	a.dir("srv")
	a.file("srv/.wh.only-below", 0o644, nil)
	a.file("srv/not-executable", 0o644, []byte("#!/bin/sh\n"))
	a.file("srv/bad-format", 0o755, []byte("this is no program\x00\n"))
	a.file("srv/script", 0o755, []byte("#!/bin/sh\nexit 9\n"))
	err := a.close()
	return layer.Bytes(), err
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// layout writes an OCI image layout with a single image (OCI image-spec image-layout.md).
func layout(out io.Writer, i image, layers []blob) error {
	a := newArchive(out)
	a.dir("blobs")
	a.dir("blobs/sha256")
	put := func(mediaType string, b blob) (descriptor, error) {
		sum := sha256.New()
		if _, err := io.Copy(sum, b); err != nil {
			return descriptor{}, err
		}
		if _, err := b.Seek(0, io.SeekStart); err != nil {
			return descriptor{}, err
		}
		digest := hex.EncodeToString(sum.Sum(nil))
		a.add(&tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + digest, Mode: 0o644, Size: b.size}, b)
		return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: b.size}, nil
	}
	putJSON := func(mediaType string, v any) (descriptor, error) {
		b, err := json.Marshal(v)
		if err != nil {
			return descriptor{}, err
		}
		return put(mediaType, blobOf(b))
	}
	var descriptors []descriptor
	var digests []string
	for _, layer := range layers {
		d, err := put("application/vnd.oci.image.layer.v1.tar", layer)
		if err != nil {
			return err
		}
		descriptors, digests = append(descriptors, d), append(digests, d.Digest)
	}
	config, err := putJSON("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"Cmd": i.command,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
	})
	if err != nil {
		return err
	}
	manifest, err := putJSON("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        config,
		"layers":        descriptors,
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": i.name, "org.opencontainers.image.ref.name": "latest"}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err != nil {
		return err
	}
	a.file("index.json", 0o644, index)
	a.file("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return a.close()
}

// archive is a tar that keeps the first error until the end.
type archive struct {
	tar *tar.Writer
	err error
}

func newArchive(w io.Writer) *archive { return &archive{tar: tar.NewWriter(w)} }

func (a *archive) dir(name string) {
	a.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, nil)
}

func (a *archive) link(name, target string) {
	a.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (a *archive) file(name string, mode int64, b []byte) {
	a.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(b))}, bytes.NewReader(b))
}

func (a *archive) add(h *tar.Header, b io.Reader) {
	if a.err != nil {
		return
	}
	h.ModTime = time.Unix(0, 0)
	if a.err = a.tar.WriteHeader(h); a.err == nil && b != nil {
		_, a.err = io.Copy(a.tar, b)
	}
}

func (a *archive) close() error {
	if a.err == nil {
		a.err = a.tar.Close()
	}
	return a.err
}
