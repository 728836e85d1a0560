package machine

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/huskvm/husk/vmm/qemu"
	"github.com/huskvm/husk/vmm/vcpu"
)

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
