package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/log"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/hostnet"
	"github.com/huskvm/husk/shim/internal/stdio"
)

const (
	// forwardTime is what the guest may take to connect.
	forwardTime = 30 * time.Second
	// maxForwards is how many connections a VM's vsock has room for. What comes beyond is closed.
	maxForwards = 1024
)

// forwardPorts takes what is dialled in the container's network namespace on the host to the guest, until the VM ends:
// engines look for a pod's localhost there when they are asked to forward a port.
func (v *vm) forwardPorts() {
	if v.netns == "" || v.network == nil {
		return
	}
	listener, err := hostnet.Listen(v.netns)
	if err != nil {
		log.L.WithError(err).Info("forwarding of ports will not find the guest")
		return
	}
	v.listener = listener
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			conn, err := listener.AcceptTCP()
			if stdio.Again(err) {
				continue
			}
			if err != nil {
				return
			}
			to := conn.LocalAddr().(*net.TCPAddr).AddrPort()
			go v.forward(conn, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()))
		}
	}()
	// The namespace is not to be kept in being by it.
	v.onEnd(func() error {
		err := listener.Close()
		<-stopped
		return err
	})
}

// forward joins a connection with what listens at an address of the guest. Without any it is reset, which is as near as
// a connection that has been taken can come to being refused.
func (v *vm) forward(conn *net.TCPConn, to netip.AddrPort) {
	defer v.forwards.Add(-1)
	if v.forwards.Add(1) > maxForwards {
		_ = conn.Close()
		return
	}
	stream, err := v.hub.Connect(func(id string) error {
		ctx, cancel := context.WithTimeout(v.ctx, forwardTime)
		defer cancel()
		_, err := v.agent.Forward(ctx, &agentv1.ForwardRequest{Ip: to.Addr().AsSlice(), Port: uint32(to.Port()), Stream: id})
		return err
	})
	if err != nil {
		log.L.WithError(err).Debug("forward a port")
		_ = conn.SetLinger(0)
		_ = conn.Close()
		return
	}
	v.join(conn, stream)
}

// join lets two connections talk until both directions have ended, or the VM has.
func (v *vm) join(conn, stream halves) {
	// Neither end is to keep the namespace in being.
	defer context.AfterFunc(v.ctx, func() { _ = errors.Join(conn.Close(), stream.Close()) })()
	var both sync.WaitGroup
	both.Go(func() { pass(conn, stream) })
	both.Go(func() { pass(stream, conn) })
	both.Wait()
	_ = errors.Join(conn.Close(), stream.Close())
}

// halves is a connection whose two directions end separately.
type halves interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// pass copies one direction. Its end is the other's to see; a failure ends both.
func pass(to, from halves) {
	if _, err := io.Copy(to, from); err != nil {
		_ = errors.Join(to.Close(), from.Close())
		return
	}
	_ = to.CloseWrite()
}
