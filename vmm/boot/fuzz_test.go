//go:build amd64

package boot_test

import (
	"testing"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/boot"
)

// fuzzLoad loads whatever it is given. It must not panic; and what it accepts has its entry in memory.
func fuzzLoad(t *testing.T, file []byte, protocol arch.Protocol) {
	mem := space(t, 4*mib)
	entry, err := boot.Load(mem, boot.Params{
		Kernel: image(file), Initramfs: image([]byte("cpio")), Cmdline: "quiet", Seed: make([]byte, 32), Protocol: protocol,
	})
	if err != nil {
		return
	}
	if _, err := mem.Slice(entry.PC, 1); err != nil {
		t.Errorf("entry: %v", err)
	}
	if _, err := mem.Slice(entry.Params, 56); err != nil {
		t.Errorf("parameters: %v", err)
	}
}

func FuzzLoadELF(f *testing.F) {
	text := segment{phys: 2 * mib, data: make([]byte, 64)}
	f.Add(elf(text), false)
	f.Add(elf(text, segment{data: append(linuxNote, pvhNote...), note: true}), true)
	f.Add(elf(text, segment{phys: 3 * mib, data: []byte("data"), mem: 4096}), false)
	f.Add(elf(segment{phys: 2 * mib, data: []byte("x"), mem: 1<<64 - 1}), false)
	f.Add(elf(segment{data: note("Xen", 18, nil), note: true}), true)
	f.Fuzz(func(t *testing.T, file []byte, pvh bool) {
		protocol := arch.LinuxBoot64
		if pvh {
			protocol = arch.PVH
		}
		fuzzLoad(t, append([]byte("\x7fELF"), file[min(4, len(file)):]...), protocol)
	})
}

func FuzzLoadBzImage(f *testing.F) {
	f.Add(bzImage(make([]byte, 4096)))
	f.Add(bzImage(nil))
	f.Add(bzImage(make([]byte, 0x201))[:0x290])
	f.Fuzz(func(t *testing.T, file []byte) { fuzzLoad(t, file, 0) })
}
