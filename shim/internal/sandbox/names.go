package sandbox

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/huskvm/husk/proto/datagram"
	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/hostnet"
)

const (
	// maxRelays is how many name servers of the host's loopback a guest reaches.
	maxRelays = 4
	// maxNameConns is how many connections a guest has with them at a time, and nameConnTime how long one lasts.
	maxNameConns = 32
	nameConnTime = time.Minute
)

// askers are sockets of the guest that wait for answers.
var askers = datagram.Limits{Peers: 256, Idle: 30 * time.Second}

// names are the name servers that are at the loopback of the container's network namespace, on the host, where the guest
// does not reach them: docker's at 127.0.0.11, or systemd's at 127.0.0.53 for a guest that is to have the host's network.
type names struct {
	mu      sync.Mutex // one after the other is looked for, and the guest told
	files   []string   // the containers' resolv.conf
	relayed []netip.Addr
	conns   chan struct{}
}

// relayNames has the name servers of a container's resolv.conf that are at the loopback answer at the guest's.
func (v *vm) relayNames(ctx context.Context, spec *specs.Spec) {
	if file := bundle.ResolvConfOf(spec); file != "" && v.network != nil {
		v.names.mu.Lock()
		defer v.names.mu.Unlock()
		if !slices.Contains(v.names.files, file) {
			v.names.files = append(v.names.files, file)
		}
		v.lookForNames(ctx)
	}
}

// relayLateNames does so for those that have come since.
func (v *vm) relayLateNames(ctx context.Context) {
	v.names.mu.Lock()
	defer v.names.mu.Unlock()
	v.lookForNames(ctx)
}

// lookForNames is called with the names' lock held.
func (v *vm) lookForNames(ctx context.Context) {
	for _, file := range v.names.files {
		list, err := hostnet.NameServers(file)
		if err != nil {
			log.L.WithError(err).Info("name servers of the host's loopback will not be found")
		}
		for _, ip := range list {
			// At localhost is what the guest itself has there, unless that is the host's.
			own := v.ports == nil && ip == netip.AddrFrom4([4]byte{127, 0, 0, 1})
			if own || slices.Contains(v.names.relayed, ip) || len(v.names.relayed) == maxRelays {
				continue
			}
			v.names.relayed = append(v.names.relayed, ip)
			if err := v.relay(ctx, ip); err != nil {
				log.L.WithError(err).Warnf("the guest does not reach the name server %s", ip)
			}
		}
	}
}

// relay lets the guest's agent listen in a name server's stead.
func (v *vm) relay(ctx context.Context, ip netip.Addr) error {
	netns := v.netns
	if netns == "" && v.ports == nil {
		netns = v.ownNetns()
	}
	if v.ports != nil {
		v.ports.leave(ip)
	}
	if v.listener != nil {
		if err := v.listener.Pass(ip); err != nil {
			return err
		}
	}
	if v.names.conns == nil {
		v.names.conns = make(chan struct{}, maxNameConns)
	}
	connections := v.hub.Serve(func(stream *net.UnixConn) { v.relayConn(stream, netns, ip) })
	packets, err := v.hub.Connect(func(id string) error {
		ctx, cancel := context.WithTimeout(ctx, forwardTime)
		defer cancel()
		_, err := v.agent.RelayNames(ctx, &agentv1.RelayNamesRequest{Ip: ip.AsSlice(), Packets: id, Connections: connections})
		return err
	})
	if err != nil {
		return err
	}
	go func() {
		defer context.AfterFunc(v.ctx, func() { _ = packets.Close() })()
		_ = datagram.Scatter(packets, askers, func() (*net.UDPConn, error) {
			conn, err := hostnet.DialNameServer(netns, "udp", ip)
			if err != nil {
				return nil, err
			}
			return conn.(*net.UDPConn), nil
		})
	}()
	return nil
}

// relayConn joins a stream of the guest's with a connection to a name server.
func (v *vm) relayConn(stream *net.UnixConn, netns string, ip netip.Addr) {
	select {
	case v.names.conns <- struct{}{}:
		defer func() { <-v.names.conns }()
	default:
		_ = stream.Close()
		return
	}
	conn, err := hostnet.DialNameServer(netns, "tcp", ip)
	if err != nil {
		log.L.WithError(err).Debug("relay a connection")
		_ = stream.Close()
		return
	}
	end := time.Now().Add(nameConnTime)
	_ = errors.Join(conn.SetDeadline(end), stream.SetDeadline(end))
	v.join(conn.(*net.TCPConn), stream)
}
