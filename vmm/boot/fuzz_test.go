//go:build amd64

package boot_test

import (
	"testing"

	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/boot"
	"github.com/huskvm/husk/vmm/memory"
)

// fuzzLoad loads whatever it is given. It must not panic; and what it accepts has its entry in memory. The memory
// is used again and again: it need be zero for a guest only.
func fuzzLoad(t *testing.T, mem *memory.Space, file []byte, protocol arch.Protocol) {
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
	mem := space(f, 4*mib)
	f.Fuzz(func(t *testing.T, file []byte, pvh bool) {
		protocol := arch.LinuxBoot64
		if pvh {
			protocol = arch.PVH
		}
		fuzzLoad(t, mem, append([]byte("\x7fELF"), file[min(4, len(file)):]...), protocol)
	})
}

func FuzzLoadBzImage(f *testing.F) {
	f.Add(bzImage(make([]byte, 4096)))
	f.Add(bzImage(nil))
	f.Add(bzImage(make([]byte, 0x201))[:0x290])
	mem := space(f, 4*mib)
	f.Fuzz(func(t *testing.T, file []byte) { fuzzLoad(t, mem, file, 0) })
}
