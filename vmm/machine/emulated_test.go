package machine

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/huskvm/husk/vmm/qemu"
	"github.com/huskvm/husk/vmm/vcpu"
	"github.com/huskvm/husk/vmm/virtio/console"
)

// full fails each second write, and keeps the others.
type full struct {
	writes int
	kept   []byte
}

func (f *full) Write(p []byte) (int, error) {
	if f.writes++; f.writes%2 == 0 {
		return 0, errors.New("no space left on device")
	}
	f.kept = append(f.kept, p...)
	return len(p), nil
}

func TestTheRingGetsWhatTheLiveConsoleDoesNotTake(t *testing.T) {
	var ring console.Ring
	ours, theirs, err := qemu.Pair("console")
	if err != nil {
		t.Fatal(err)
	}
	live := &full{}
	e := newEmulated(&Config{QEMU: &QEMU{}}, &ring)
	e.terminal = ours
	e.pump(&Config{Console: live})
	for _, line := range []string{"one", "two", "three"} {
		if _, err := io.WriteString(theirs, line); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); !strings.HasSuffix(string(ring.Tail()), line); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%q does not come", line)
			}
		}
	}
	_ = theirs.Close()
	if err := e.close(); err != nil {
		t.Error(err)
	}
	if tail := string(ring.Tail()); tail != "onetwothree" || string(live.kept) != "onethree" {
		t.Errorf("the ring has %q, the live console %q", tail, live.kept)
	}
}

func TestAQEMUThatIsGoneIsAGuestThatHasEnded(t *testing.T) {
	gone := fmt.Errorf("signal QEMU: %w", qemu.ErrGone)
	if err := ended(gone); !errors.Is(err, vcpu.ErrEnded) || !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if err := ended(io.EOF); err != io.EOF {
		t.Errorf("got %v", err)
	}
	if err := ended(nil); err != nil {
		t.Errorf("got %v", err)
	}
}
