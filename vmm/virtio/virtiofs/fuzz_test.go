package virtiofs

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/virtiofs/passthrough"
	"github.com/huskvm/husk/vmm/virtio/virtiotest"
)

// message is one FUSE request.
func message(op uint32, node uint64, body ...byte) []byte {
	b := make([]byte, headerSize, headerSize+len(body))
	binary.NativeEndian.PutUint32(b, uint32(headerSize+len(body)))
	binary.NativeEndian.PutUint32(b[4:], op)
	binary.NativeEndian.PutUint64(b[16:], node)
	return append(b, body...)
}

// sequence is requests, each behind its length.
func sequence(list ...[]byte) []byte {
	var out []byte
	for _, m := range list {
		out = binary.LittleEndian.AppendUint16(out, uint16(len(m)))
		out = append(out, m...)
	}
	return out
}

// FuzzRequests sends any requests in any order: no panic, and nothing outside of the share changes.
func FuzzRequests(f *testing.F) {
	initBody := make([]byte, 64)
	binary.NativeEndian.PutUint32(initBody, 7)
	binary.NativeEndian.PutUint32(initBody[4:], 39)
	start := [][]byte{message(26, 0, initBody...), message(1, 1, []byte("share\x00")...)}
	for _, more := range [][]byte{
		message(3, 2, make([]byte, 16)...),                                                                 // GETATTR
		message(1, 2, []byte("f\x00")...),                                                                  // LOOKUP
		message(35, 2, append(make([]byte, 16), "new\x00"...)...),                                          // CREATE
		message(9, 2, append(make([]byte, 8), "dir\x00"...)...),                                            // MKDIR
		message(12, 2, append([]byte{2, 0, 0, 0, 0, 0, 0, 0}, "f\x00g\x00"...)...),                         // RENAME
		message(45, 2, append([]byte{2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}, "f\x00g\x00"...)...), // RENAME2
		message(6, 2, []byte("link\x00../../secret\x00")...),                                               // SYMLINK
		message(27, 2, make([]byte, 8)...),                                                                 // OPENDIR
		message(28, 2, make([]byte, 40)...),                                                                // READDIR
		message(42, 2, []byte{2, 0, 0, 0, 0, 0, 0, 0, 1}...),                                               // BATCH_FORGET
		message(16, 2, make([]byte, 50)...),                                                                // WRITE
		message(21, 2, append([]byte{4, 0, 0, 0, 0, 0, 0, 0}, "user.x\x00abcd"...)...),                     // SETXATTR
	} {
		f.Add(sequence(append(start[:2:2], more)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "share"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "share/f"), []byte("f"), 0o600); err != nil {
			t.Fatal(err)
		}
		files, err := passthrough.New()
		if err != nil {
			t.Fatal(err)
		}
		defer files.Close()
		root, err := os.OpenFile(filepath.Join(dir, "share"), unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := files.AddShare("share", root, false); err != nil {
			t.Fatal(err)
		}
		server := fuse.NewProtocolServer(files, &fuse.MountOptions{
			MaxWrite: maxWrite, Logger: quiet, PanicHandler: func(r any) fuse.Status { panic(r) },
		})
		d := virtiotest.NewDriver(t, 1<<20)
		q := d.NewQueue(8)
		device := q.Device()
		out := d.Alloc(64 << 10)
		for len(data) >= 2 {
			n := min(int(binary.LittleEndian.Uint16(data)), len(data)-2, 32<<10)
			if n == 0 {
				break
			}
			in := d.Bytes(out+32<<10, n)
			copy(in, data[2:2+n])
			data = data[2+n:]
			q.Submit(0, virtiotest.Desc{Addr: out + 32<<10, Len: uint32(n)}, virtiotest.Desc{Addr: out, Len: 32 << 10, Writable: true})
			c, err := device.TryNext()
			if err != nil || c == nil {
				t.Fatal(err)
			}
			handle(server, c)
			device.Return(c)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "secret")); err != nil || string(b) != "s" {
			t.Errorf("outside: %q, %v", b, err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
			t.Errorf("outside: %v, %v", names, err)
		}
	})
}
