package boot

import (
	"errors"
	"fmt"
	"sync"

	"github.com/huskvm/husk/vmm/memory"
)

// piece is a part of a file and the guest memory it is to fill.
type piece struct {
	from Image
	off  int64
	to   []byte
	name string
}

// readAll reads all pieces at the same time: most of a start's work is here, and it is copying and page faults.
func readAll(pieces []piece) error {
	errs := make([]error, len(pieces))
	var wg sync.WaitGroup
	for i, p := range pieces {
		wg.Go(func() {
			memory.Populate(p.to)
			if err := p.from.readAt(p.to, p.off); err != nil {
				errs[i] = fmt.Errorf("read %s: %w", p.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// span is a range of guest memory that something will use, end not included.
type span struct {
	start, end uint64
	name       string
}

func (s span) overlaps(o span) bool { return s.start < o.end && o.start < s.end }

// reserve checks that s lies in one piece of mem.
func reserve(mem *memory.Space, s span) error {
	if _, err := mem.Slice(s.start, s.end-s.start); err != nil {
		return fmt.Errorf("%s needs memory from %#x to %#x: %w", s.name, s.start, s.end, err)
	}
	return nil
}
