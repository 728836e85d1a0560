package kernel

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// ReadModule returns the bytes of a module as the kernel wants them: decompressed.
// Debian compresses with xz from release 13 on; the xz and zstd programs are used where the name asks for them.
func ReadModule(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	switch filepath.Ext(path) {
	case ".xz":
		return decompress(data, path, "xz", "-dc")
	case ".zst":
		return decompress(data, path, "zstd", "-dcq")
	case ".gz":
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("decompress module %s: %w", path, err)
		}
		plain, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("decompress module %s: %w", path, err)
		}
		return plain, nil
	}
	return data, nil
}

func decompress(data []byte, path, program string, args ...string) ([]byte, error) {
	cmd := exec.Command(program, args...)
	cmd.Stdin = bytes.NewReader(data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	plain, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("decompress module %s with %s: %w %s", path, program, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return plain, nil
}
