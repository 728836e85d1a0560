package usernet

import (
	"io"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxDials is how many connections are being made at a time; what comes beyond tries again.
	maxDials = 128
	// dialTime is less than what the guest itself waits.
	dialTime = 2 * time.Minute
)

// connect makes the guest's connection, once the host has made its own.
func (n *network) connect(r *tcp.ForwarderRequest) {
	outside, err := net.DialTimeout("tcp", n.destination(r.ID()).String(), dialTime)
	if err != nil {
		r.Complete(true)
		return
	}
	var queue waiter.Queue
	inside, refused := r.CreateEndpoint(&queue)
	r.Complete(false)
	if refused != nil {
		_ = outside.Close()
		return
	}
	join(gonet.NewTCPConn(&queue, inside), outside.(*net.TCPConn))
}

// halves is a connection whose two directions end separately.
type halves interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// join lets two connections talk until both directions have ended.
func join(a, b halves) {
	var both sync.WaitGroup
	both.Go(func() { pass(a, b) })
	both.Go(func() { pass(b, a) })
	both.Wait()
	_, _ = a.Close(), b.Close()
}

// pass copies one direction. Its end is the other's to see; a failure ends both.
func pass(to, from halves) {
	if _, err := io.Copy(to, from); err != nil {
		_, _ = to.Close(), from.Close()
		return
	}
	_ = to.CloseWrite()
}
