package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/huskvm/husk/shim/internal/hostcgroup"
)

// runtimeType is husk's name in an engine's configuration.
const runtimeType = "io.containerd.husk.v2"

// checkCgroups says what the host has; husk works with each.
func checkCgroups(r *report) {
	layout := "v1"
	if hostcgroup.Unified() {
		layout = "v2"
	} else if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err == nil {
		layout = "hybrid (v1 with v2 beside it)"
	}
	driver := "cgroupfs; systemd is not running here, so paths of the form slice:prefix:name are an error"
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		driver = "systemd for paths of the form slice:prefix:name, cgroupfs for others"
	}
	r.ok("cgroups", layout+"; "+driver)
}

// engines are the configurations in which a runtime can be named.
var engines = []string{"/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml", "/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*.conf", "/etc/docker/daemon.json"}

// servicePath is where a containerd that systemd starts looks for shims.
var servicePath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// checkEngine says whether container engines find husk.
func checkEngine(r *report, shim string) {
	r.try("shim", executable(shim), shim)
	found := false
	for _, dir := range servicePath {
		found = found || executable(filepath.Join(dir, filepath.Base(shim))) == nil
	}
	if !found {
		r.note("shim", fmt.Sprintf("it is in none of %s: a containerd started by systemd finds it by `runtime_path` only", strings.Join(servicePath, ", ")))
	}
	var read, naming []string
	for _, pattern := range engines {
		files, _ := filepath.Glob(pattern)
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				if !errors.Is(err, fs.ErrNotExist) {
					r.note("engine", err.Error())
				}
				continue
			}
			read = append(read, path)
			if bytes.Contains(text, []byte(runtimeType)) || bytes.Contains(text, []byte(filepath.Base(shim))) {
				naming = append(naming, path)
			}
		}
	}
	switch {
	case len(naming) > 0:
		r.ok("engine", strings.Join(naming, ", ")+" names husk")
	case len(read) > 0:
		r.note("engine", fmt.Sprintf("%s does not name %s: ctr and nerdctl reach it with --runtime, Kubernetes needs an entry", strings.Join(read, ", "), runtimeType))
	default:
		r.note("engine", "no configuration of containerd, CRI-O or docker: ctr and nerdctl reach husk with --runtime "+runtimeType)
	}
}
