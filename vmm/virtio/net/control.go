package net

import (
	"io"
	"log/slog"

	"github.com/huskvm/husk/vmm/virtio/queue"
)

// controller carries the driver's commands out (virtio 1.2 §5.1.6.5). The device offers one.
type controller struct {
	use  func(pairs int) error
	most int // pairs
}

// handle answers what it does not know, or cannot do, with an error.
func (c *controller) handle(chain *queue.Chain) error {
	if chain.WritableLen() == 0 {
		return queue.Offence("control command of %d bytes without room for an answer", chain.ReadableLen())
	}
	answer := byte(ackError)
	if c.do(chain) {
		answer = ackOK
	}
	_, err := chain.Write([]byte{answer})
	return err
}

func (c *controller) do(chain *queue.Chain) bool {
	var cmd command
	if n := chain.ReadableLen(); n != uint64(len(cmd)) {
		return false
	}
	_, _ = io.ReadFull(chain, cmd[:])
	if n := cmd.pairs(); !cmd.setsPairs() || n < 1 || n > c.most {
		return false
	}
	if err := c.use(cmd.pairs()); err != nil {
		slog.Warn("network interface", "pairs", cmd.pairs(), "error", err)
		return false
	}
	return true
}
