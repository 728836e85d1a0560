package cpio_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/huskvm/husk/test/host/internal/cpio"
)

// record is an entry as a reader of the format sees it.
type record struct {
	Name         string
	Mode         uint64
	Major, Minor uint64
	Content      string
}

// readAll reads an archive by the description of the format, not by the writer's code.
func readAll(archive []byte) ([]record, error) {
	var records []record
	for at := 0; ; {
		if at+110 > len(archive) || string(archive[at:at+6]) != "070701" {
			return records, fmt.Errorf("no header at %d", at)
		}
		field := func(i int) uint64 {
			n, err := strconv.ParseUint(string(archive[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				panic(err)
			}
			return n
		}
		size, nameSize := int(field(6)), int(field(11))
		r := record{Mode: field(1), Major: field(9), Minor: field(10)}
		r.Name = strings.TrimSuffix(string(archive[at+110:at+110+nameSize]), "\x00")
		start := (at + 110 + nameSize + 3) &^ 3
		r.Content = string(archive[start : start+size])
		at = (start + size + 3) &^ 3
		if r.Name == "TRAILER!!!" {
			if at != len(archive) {
				return records, fmt.Errorf("%d bytes after the trailer", len(archive)-at)
			}
			return records, nil
		}
		records = append(records, r)
	}
}

func TestArchiveReadsBackAsWritten(t *testing.T) {
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	steps := []error{
		w.Directory("dev", 0o755),
		w.Character("dev/console", 0o600, 5, 1),
		w.File("init", 0o755, []byte("12345")),
		w.File("empty", 0o600, nil),
		w.File("aligned", 0o644, []byte("1234")),
		w.Close(),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(archive.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := []record{
		{Name: "dev", Mode: 0o040755},
		{Name: "dev/console", Mode: 0o020600, Major: 5, Minor: 1},
		{Name: "init", Mode: 0o100755, Content: "12345"},
		{Name: "empty", Mode: 0o100600},
		{Name: "aligned", Mode: 0o100644, Content: "1234"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("archive differs (-want +got):\n%s", diff)
	}
}

func TestEqualInputGivesEqualArchive(t *testing.T) {
	build := func() []byte {
		var archive bytes.Buffer
		w := cpio.NewWriter(&archive)
		if err := errors.Join(w.File("a", 0o644, []byte("x")), w.Close()); err != nil {
			t.Fatal(err)
		}
		return archive.Bytes()
	}
	if !bytes.Equal(build(), build()) {
		t.Error("two archives of the same content differ")
	}
}

func TestNamesThatWouldNotBeRelativeAreRefused(t *testing.T) {
	for _, name := range []string{"", "/init", "a\x00b", "TRAILER!!!"} {
		if err := cpio.NewWriter(io.Discard).File(name, 0o644, nil); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
}

func TestWriteErrorIsReportedWithTheName(t *testing.T) {
	err := cpio.NewWriter(brokenWriter{}).File("init", 0o755, []byte("x"))
	if !errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), "init") {
		t.Errorf("got %v", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
