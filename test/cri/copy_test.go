package cri

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
)

// tree is some files by their names.
type tree map[string][]byte

// someFiles are one of several MiB, whose size is no multiple of anything, and many small ones.
func someFiles() tree {
	source := rand.NewChaCha8([32]byte{1})
	files := tree{"big": make([]byte, 12<<20+12345), "empty": nil}
	_, _ = source.Read(files["big"])
	for i := range 200 {
		data := make([]byte, i*37)
		_, _ = source.Read(data)
		files[fmt.Sprintf("small/%d", i)] = data
	}
	return files
}

func (files tree) tar(t *testing.T) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o640, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func untar(t *testing.T, archive []byte) tree {
	t.Helper()
	files := tree{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatalf("an archive of %d bytes: %v", len(archive), err)
		}
		if h.Typeflag == tar.TypeReg {
			if files[strings.TrimPrefix(h.Name, "./")], err = io.ReadAll(r); err != nil {
				t.Fatalf("an archive of %d bytes, %s: %v", len(archive), h.Name, err)
			}
		}
	}
}

// kubectl cp is tar, with its archive on stdin or stdout.
func TestFilesAreCopiedBothWays(t *testing.T) {
	p := newPod(t)
	c := p.start(shell("main", "mkdir /to; "+idle))
	files := someFiles()
	archive := files.tar(t)
	t.Run("into the container", func(t *testing.T) {
		cmd := c.run("tar", "-xmf", "-", "-C", "/to")
		if _, err := cmd.stdin.Write(archive); err != nil {
			t.Fatal(err)
		}
		_ = cmd.stdin.Close()
		if status := cmd.end(); status != 0 || cmd.err.Len() > 0 {
			t.Errorf("status %d, %s", status, cmd.err.String())
		}
		c.expectOutput(fmt.Sprintf("%x", sha256.Sum256(files["big"])), "sha256sum /to/big | head -c 64")
		c.expectOutput(fmt.Sprint(len(files)), "find /to -type f | wc -l")
	})
	t.Run("out of the container", func(t *testing.T) {
		for range 3 {
			cmd := c.run("tar", "cf", "-", "-C", "/to", ".")
			_ = cmd.stdin.Close()
			if status := cmd.end(); status != 0 || cmd.err.Len() > 0 {
				t.Errorf("status %d, %s", status, cmd.err.String())
			}
			if got := untar(t, cmd.out.Bytes()); !maps.EqualFunc(got, files, bytes.Equal) {
				t.Errorf("%d files of %d, or not as they were: big has %d bytes", len(got), len(files), len(got["big"]))
			}
		}
	})
	t.Run("stdin ends when it is closed", func(t *testing.T) {
		cmd := c.run("sh", "-c", "wc -c; echo end >&2; exit 4")
		for i := 0; i < len(archive); i += 100_000 {
			if _, err := cmd.stdin.Write(archive[i:min(i+100_000, len(archive))]); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.stdin.Close()
		if status := cmd.end(); status != 4 || strings.TrimSpace(cmd.out.String()) != fmt.Sprint(len(archive)) || cmd.err.String() != "end\n" {
			t.Errorf("status %d, %q, %q; want %d bytes", status, cmd.out.String(), cmd.err.String(), len(archive))
		}
	})
	t.Run("nothing on stdin", func(t *testing.T) {
		cmd := c.run("cat")
		_ = cmd.stdin.Close()
		if status := cmd.end(); status != 0 || cmd.out.Len() > 0 {
			t.Errorf("status %d, %d bytes", status, cmd.out.Len())
		}
	})
	t.Run("no such directory", func(t *testing.T) {
		cmd := c.run("tar", "-xmf", "-", "-C", "/nowhere")
		_, _ = cmd.stdin.Write(archive) // which nobody takes
		_ = cmd.stdin.Close()
		if status := cmd.end(); status != 1 || !strings.Contains(cmd.err.String(), "/nowhere") {
			t.Errorf("status %d, %q", status, cmd.err.String())
		}
	})
	t.Run("no tar", func(t *testing.T) {
		cmd := c.run("no-such-tar", "cf", "-", "/to")
		_ = cmd.stdin.Close()
		if status := cmd.end(); status != 127 || !strings.Contains(cmd.err.String(), "no-such-tar") {
			t.Errorf("status %d, %q", status, cmd.err.String())
		}
	})
	t.Run("the client goes midway", func(t *testing.T) {
		// The engine closes stdin when stdout ends, so that is to stay open.
		cmd := c.run("sh", "-c", "cat > /some; :")
		_, _ = cmd.stdin.Write(archive[:1<<20])
		eventually(t, "the command takes it", func() bool { return c.prints("stat -c %s /some") == "1048576\n" })
		_ = cmd.conn.Close()
		// By the end of its stdin, or because the engine ends it.
		eventually(t, "the command ends", func() bool { return c.prints("ps | grep -c '[c]at > /some'") == "0\n" })
	})
	t.Run("many at a time", func(t *testing.T) {
		all := make([]*command, 6)
		for i := range all {
			all[i] = c.run("cat")
		}
		for _, cmd := range all {
			cmd.reading.Go(func() {
				_, _ = cmd.stdin.Write(archive[:1<<20])
				_ = cmd.stdin.Close()
			})
		}
		for _, cmd := range all {
			if status := cmd.end(); status != 0 || !bytes.Equal(cmd.out.Bytes(), archive[:1<<20]) {
				t.Errorf("status %d, %d bytes", status, cmd.out.Len())
			}
		}
	})
}
