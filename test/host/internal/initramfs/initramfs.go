// Package initramfs puts together what the test host's kernel starts from: the init, the modules in their order
// of loading, and the specification of what to run.
package initramfs

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/huskvm/husk/test/host/internal/cpio"
	"github.com/huskvm/husk/test/host/internal/kernel"
	"github.com/huskvm/husk/test/host/internal/wire"
)

// The modules without which the guest can't reach its port or its root.
var bootModules = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"}

// What tests and container runtimes use. A kernel without one of them is still a test host.
var moreModules = []string{
	"crc32c_generic",
	"vhost_vsock", "vhost_net", "vsock_loopback", "tun", "veth", "bridge", "br_netfilter", "dummy", "macvlan",
	"sch_ingress", "act_mirred", "cls_u32", "cls_matchall",
	"loop", "dm_thin_pool", "fuse", "virtiofs", "ext4", "erofs",
	"nf_tables", "nft_compat", "nft_chain_nat", "nft_ct", "nft_masq",
	"ip_tables", "iptable_filter", "iptable_nat", "ip6_tables", "ip6table_filter", "ip6table_nat",
	"xt_conntrack", "xt_MASQUERADE", "xt_nat", "xt_addrtype", "xt_comment", "xt_mark", "xt_multiport", "xt_tcpudp",
}

// Build returns the archive. The modules come from the directory of the kernel that is booted; init is the path
// of a static executable; kvmModule is the one for the guest's processor. Build fills in spec's modules.
func Build(init, moduleDir, kvmModule string, spec wire.Spec) ([]byte, error) {
	modules, err := kernel.OpenModules(moduleDir)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	if err := addInit(w, init); err != nil {
		return nil, err
	}
	if err := addModules(w, modules, kvmModule, &spec); err != nil {
		return nil, err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode specification: %w", err)
	}
	if err := w.File(wire.SpecFile, 0o600, data); err != nil {
		return nil, err
	}
	return archive.Bytes(), w.Close()
}

func addInit(w *cpio.Writer, path string) error {
	if err := checkStatic(path); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read init: %w", err)
	}
	if err := w.Directory("dev", 0o755); err != nil {
		return err
	}
	if err := w.Character("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	return w.File(wire.InitFile, 0o755, data)
}

// checkStatic refuses a program that needs a loader: there is none in the initramfs, and the kernel would only
// panic with "No working init found".
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("inspect init %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("inspect init %s: it is linked dynamically; build it with CGO_ENABLED=0", path)
		}
	}
	return nil
}

func addModules(w *cpio.Writer, modules *kernel.Modules, kvmModule string, spec *wire.Spec) error {
	if err := w.Directory(wire.ModuleDir, 0o700); err != nil {
		return err
	}
	packed := map[string]bool{}
	pack := func(path string) (string, error) {
		file, _, _ := strings.Cut(filepath.Base(path), ".ko")
		file += ".ko"
		if packed[path] {
			return "", nil
		}
		packed[path] = true
		data, err := kernel.ReadModule(path)
		if err != nil {
			return "", err
		}
		return file, w.File(wire.ModuleDir+"/"+file, 0o600, data)
	}
	add := func(list *[]wire.Module, required bool, name string) error {
		paths, err := modules.Order(name)
		if errors.Is(err, kernel.ErrNoModule) && !required {
			return nil
		}
		if err != nil {
			return err
		}
		for _, path := range paths {
			file, err := pack(path)
			if err != nil {
				return err
			}
			if file != "" {
				*list = append(*list, wire.Module{File: file, Required: required})
			}
		}
		return nil
	}
	for _, name := range bootModules {
		if err := add(&spec.Boot, true, name); err != nil {
			return err
		}
	}
	for _, name := range append([]string{kvmModule}, moreModules...) {
		if err := add(&spec.More, false, name); err != nil {
			return err
		}
	}
	return nil
}
