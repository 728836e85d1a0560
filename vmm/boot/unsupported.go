//go:build !amd64

package boot

import (
	"github.com/huskvm/husk/vmm/arch"
	"github.com/huskvm/husk/vmm/memory"
)

// Load answers arch.ErrUnsupported.
func Load(*memory.Space, Params) (arch.Entry, error) { return arch.Entry{}, arch.ErrUnsupported }
