package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// entries reads an archive as the kernel would.
func entries(t *testing.T, archive []byte) []string {
	t.Helper()
	var list []string
	for at := 0; ; {
		if at%4 != 0 || string(archive[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		var f [13]int
		for i := range f {
			n, err := strconv.ParseUint(string(archive[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			f[i] = int(n)
		}
		mode, size, major, minor, nameSize := f[1], f[6], f[9], f[10], f[11]
		name := string(archive[at+110 : at+110+nameSize-1])
		data := (at + 110 + nameSize + 3) &^ 3
		if name == "TRAILER!!!" {
			return list
		}
		list = append(list, fmt.Sprintf("%s %o %d:%d %s", name, mode, major, minor, archive[data:data+size]))
		at = (data + size + 3) &^ 3
	}
}

func TestTheArchiveHoldsTheAgentAndItsDevices(t *testing.T) {
	want := []string{
		"dev 40755 0:0 ", "dev/console 20600 5:1 ", "dev/null 20666 1:3 ", "root 40755 0:0 ", "init 100755 0:0 agent",
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "agent"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, []byte("agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run(in, out); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, entries(t, first)); d != "" {
		t.Error(d)
	}
	if err := run(in, out); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(out); err != nil || !bytes.Equal(first, second) {
		t.Errorf("a second archive differs: %v", err)
	}
	if err := run(filepath.Join(dir, "none"), out); err == nil {
		t.Error("an archive without an agent")
	}
}
