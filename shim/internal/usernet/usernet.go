// Package usernet is a network in user mode for one guest: what the guest sends is sent again, by sockets of this
// process, in the network namespace that it is in. It is called by husk-net, which is a process of its own so that
// nobody else carries the stack (gVisor's, by gvisor-tap-vsock) along.
//
// The guest is hostile. Frames that are not plainly its own, for the gateway, go no further than Read.
package usernet

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
)

// Config is what the guest is told as well.
type Config struct {
	Guest, Gateway netip.Prefix
	GuestMAC       net.HardwareAddr
	MTU            int
	// Aliases are addresses that stand for addresses of the host.
	Aliases map[string]string
}

// gatewayMAC is locally administered.
var gatewayMAC = net.HardwareAddr{0x02, 0x68, 0x75, 0x73, 0x6b, 0x01}

// Serve passes frames until there are no more.
func Serve(frames *os.File, c Config) error {
	network, err := virtualnetwork.New(&types.Configuration{
		MTU: c.MTU, Subnet: c.Gateway.Masked().String(),
		GatewayIP: c.Gateway.Addr().String(), GatewayMacAddress: gatewayMAC.String(),
		DHCPStaticLeases: map[string]string{c.Guest.Addr().String(): c.GuestMAC.String()},
		NAT:              c.Aliases,
		// What a program in the host's network would reach.
		Ec2MetadataAccess: true,
	})
	if err != nil {
		return fmt.Errorf("make the network: %w", err)
	}
	return network.AcceptBess(context.Background(), conn{frames, c.GuestMAC})
}

// conn is a socket of which each read and write is a frame.
type conn struct {
	*os.File
	guest net.HardwareAddr
}

const headerSize = 14

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Read takes a frame from the guest's address to the gateway's or to all: a switch that learned others would grow.
func (c conn) Read(p []byte) (int, error) {
	for {
		n, err := c.File.Read(p)
		if err != nil {
			return n, err
		}
		f := p[:n]
		if n > headerSize && bytes.Equal(f[6:12], c.guest) && (bytes.Equal(f[:6], gatewayMAC) || bytes.Equal(f[:6], broadcast)) {
			return n, nil
		}
	}
}

func (conn) LocalAddr() net.Addr  { return &net.UnixAddr{} }
func (conn) RemoteAddr() net.Addr { return &net.UnixAddr{} }
