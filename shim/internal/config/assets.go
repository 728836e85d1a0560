package config

import (
	"os"
	"path/filepath"
)

// The assets' names beside the shim's binary, as the build leaves them and a package installs them.
const (
	vmmName       = "husk-vmm"
	kernelName    = "husk-kernel"
	initramfsName = "husk-initramfs"
)

// locate fills in the paths that the configuration left open: beside the executable if the file is there,
// else under the PREFIX whose bin the executable is in. Whether they exist is found out when they are opened.
func (c *Config) locate(executable string) {
	dir := filepath.Dir(executable)
	for _, asset := range []struct {
		path   *string
		name   string
		subdir string
	}{
		{&c.VMM, vmmName, "lib/husk"},
		{&c.Kernel, kernelName, "share/husk"},
		{&c.Initramfs, initramfsName, "share/husk"},
	} {
		if *asset.path != "" {
			continue
		}
		*asset.path = filepath.Join(dir, asset.name)
		prefix, ok := prefix(executable)
		if !ok {
			continue
		}
		if _, err := os.Stat(*asset.path); err == nil {
			continue
		}
		if installed := filepath.Join(prefix, asset.subdir, asset.name); exists(installed) {
			*asset.path = installed
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// prefix is PREFIX of PREFIX/bin/executable.
func prefix(executable string) (string, bool) {
	dir := filepath.Dir(executable)
	if filepath.Base(dir) != "bin" {
		return "", false
	}
	return filepath.Dir(dir), true
}
