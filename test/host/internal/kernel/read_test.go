package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"
)

func compressed(t *testing.T, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func signed(module string) string {
	const signature = "signature"
	info := make([]byte, signatureInfo)
	binary.BigEndian.PutUint32(info[signatureInfo-4:], uint32(len(signature)))
	return module + signature + string(info) + signatureMark
}

func TestModuleIsReadDecompressedAndWithoutSignature(t *testing.T) {
	for name, content := range map[string]string{
		"plain.ko":         "module",
		"signed.ko":        signed("module"),
		"compressed.ko.gz": string(compressed(t, signed("module"))),
	} {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, content)
		got, err := ReadModule(path)
		if err != nil || string(got) != "module" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func TestModuleWithImpossibleSignatureIsLeftAlone(t *testing.T) {
	info := make([]byte, signatureInfo)
	binary.BigEndian.PutUint32(info[signatureInfo-4:], 1<<30)
	for _, content := range []string{signatureMark, "x" + signatureMark, string(info) + signatureMark} {
		if got := withoutSignature([]byte(content)); string(got) != content {
			t.Errorf("%q became %q", content, got)
		}
	}
}

// bzImage is as little of one as a loader looks at.
func bzImage(payload []byte) []byte {
	image := make([]byte, 2*sectorSize)
	image[setupSectors] = 1
	copy(image[setupMagic:], "HdrS")
	binary.LittleEndian.PutUint32(image[payloadOffset:], 16)
	binary.LittleEndian.PutUint32(image[payloadLength:], uint32(len(payload)))
	return append(append(image, make([]byte, 16)...), payload...)
}

func TestUncompressedKernelIsWhatTheBzImageHolds(t *testing.T) {
	// The kernel's build puts the uncompressed size behind the stream.
	payload := append(compressed(t, "\x7fELF and the rest"), 16, 0, 0, 0)
	path := filepath.Join(t.TempDir(), "vmlinuz")
	write(t, path, string(bzImage(payload)))
	got, err := Uncompressed(path)
	if err != nil || string(got) != "\x7fELF and the rest" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestWhatIsNoKernelIsRefused(t *testing.T) {
	tooLong := bzImage([]byte("payload"))
	binary.LittleEndian.PutUint32(tooLong[payloadLength:], 1<<31)
	for name, image := range map[string][]byte{"short": []byte("MZ"), "no magic": make([]byte, 4096), "payload beyond the end": tooLong} {
		path := filepath.Join(t.TempDir(), "vmlinuz")
		write(t, path, string(image))
		if _, err := Uncompressed(path); !errors.Is(err, errNotBzImage) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "vmlinuz")
	write(t, path, string(bzImage(compressed(t, "not ELF"))))
	if _, err := Uncompressed(path); err == nil {
		t.Error("a payload that is not ELF was taken")
	}
}
