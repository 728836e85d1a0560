package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
)

// ReadModule returns a module ready to be loaded: decompressed (Debian compresses from release 13 on), and
// without its signature, whose check takes the emulated processor longer than the loading.
func ReadModule(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	if data, err = decompressByMagic(data, path); err != nil {
		return nil, err
	}
	return withoutSignature(data), nil
}

// decompressors are known by the first bytes of what they take. Kernels end their payload with its size, which
// gzip and zstd would complain about, hence the programs' most tolerant form.
var decompressors = []struct {
	magic   string
	command []string
}{
	{"\xfd7zXZ\x00", []string{"xz", "-dc", "--single-stream"}},
	{"\x28\xb5\x2f\xfd", []string{"zstd", "-dcqf"}},
	{"\x1f\x8b", []string{"gzip", "-dcq"}},
	{"\x02\x21\x4c\x18", []string{"lz4", "-dcq"}},
}

// decompressByMagic returns data itself if it is not compressed. name is for errors.
func decompressByMagic(data []byte, name string) ([]byte, error) {
	for _, d := range decompressors {
		if !bytes.HasPrefix(data, []byte(d.magic)) {
			continue
		}
		cmd := exec.Command(d.command[0], d.command[1:]...)
		cmd.Stdin = bytes.NewReader(data)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		plain, err := cmd.Output()
		if err != nil && len(plain) == 0 {
			return nil, fmt.Errorf("decompress %s with %s: %w %s", name, d.command[0], err, bytes.TrimSpace(stderr.Bytes()))
		}
		return plain, nil
	}
	return data, nil
}

const (
	signatureMark = "~Module signature appended~\n"
	signatureInfo = 12 // struct module_signature, whose last four bytes are the signature's length
)

// withoutSignature cuts off what scripts/sign-file of the kernel has appended.
func withoutSignature(module []byte) []byte {
	body, signed := bytes.CutSuffix(module, []byte(signatureMark))
	if !signed || len(body) < signatureInfo {
		return module
	}
	length := int64(binary.BigEndian.Uint32(body[len(body)-4:]))
	end := int64(len(body)) - signatureInfo - length
	if end < 0 {
		return module
	}
	return body[:end]
}
