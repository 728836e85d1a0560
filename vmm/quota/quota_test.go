package quota

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestALogEndsWithALineThatSaysSo(t *testing.T) {
	var file bytes.Buffer
	const size, last = 1 << 10, "no more\n"
	log := slog.New(slog.NewTextHandler(NewWriter(&file, size, last), nil))
	for range 1000 {
		log.Warn("device needs a reset", "error", "offence")
	}
	text := file.String()
	if len(text) > size+len(last) || !strings.HasSuffix(text, "error=offence\n"+last) || strings.Count(text, last) != 1 {
		t.Errorf("%d bytes in the log:\n%s", len(text), text)
	}
}

func TestWhatFitsIsWrittenAsItIs(t *testing.T) {
	var file bytes.Buffer
	q := NewWriter(&file, 6, "full")
	for _, p := range []string{"abc", "def", "", "g", "h"} {
		if n, err := q.Write([]byte(p)); n != len(p) || err != nil {
			t.Errorf("%q: %d bytes, error %v", p, n, err)
		}
	}
	if file.String() != "abcdef"+"full" {
		t.Errorf("got %q", file.String())
	}
}

type failing struct{ error }

func (f failing) Write([]byte) (int, error) { return 0, f.error }

func TestWhatFailsIsAnErrorUntilItIsFull(t *testing.T) {
	cause := errors.New("no space")
	q := NewWriter(failing{cause}, 1, "full")
	for _, p := range []string{"a", "bc"} {
		if _, err := q.Write([]byte(p)); !errors.Is(err, cause) {
			t.Errorf("%q: error %v", p, err)
		}
	}
	if n, err := q.Write([]byte("d")); n != 1 || err != nil {
		t.Errorf("%d bytes, error %v", n, err)
	}
}
