// Package hostnet connects a sandbox's VM with the network namespace that the orchestrator has made for it.
//
// For each interface there it makes a tap in the same namespace, and lets tc pass every frame on: what arrives at the
// interface leaves by the tap to the VMM, what the VMM writes to the tap leaves by the interface. The guest takes the
// interface's address, MTU, addresses, routes and neighbours over, which stay on the host's interface as well, for the
// orchestrator to look at.
//
//	peer ── eth0 ── ingress: u32, mirred redirect ──▶ husk…-0 ──▶ VMM
//	peer ◀── eth0 ◀── ingress: u32, mirred redirect ── husk…-0 ◀── VMM
//
// Everything is named after the sandbox, so that Disconnect needs no state. Taps go by themselves, with the VMM.
package hostnet

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
)

// Key tells the sandbox's traces in a network namespace from others'.
type Key [8]byte

// KeyOf is the key of the sandbox with a directory.
func KeyOf(dir string) Key {
	sum := sha256.Sum256([]byte(dir))
	return Key(sum[:8])
}

// tapPrefix begins the names of every sandbox's taps, which are at most 15 bytes.
const tapPrefix = "husk"

// tapName is the name of the key's tap number i.
func (k Key) tapName(i int) string {
	return fmt.Sprintf("%s%s-%d", tapPrefix, hex.EncodeToString(k[:4]), i)
}

func (k Key) ownsTap(name string) bool {
	return strings.HasPrefix(name, tapPrefix+hex.EncodeToString(k[:4])+"-")
}

// words are the key as a filter carries it.
func (k Key) words() [2]uint32 {
	return [2]uint32{binary.BigEndian.Uint32(k[:4]), binary.BigEndian.Uint32(k[4:])}
}

// Network is a connected namespace: what the VMM and the guest are to be told.
type Network struct {
	Taps   []Tap
	Config *agentv1.ConfigureNetworkRequest
	Notes  []string // what the guest does not get, for the log

	indexes []int // by tap, the index of its interface; spare ones are beyond the end
}

// Tap is one interface's. The files, one a queue, hold the tap in being; they are the caller's.
type Tap struct {
	Files []*os.File
	MAC   net.HardwareAddr
	MTU   int
}

func (t Tap) close() {
	for _, f := range t.Files {
		_ = f.Close()
	}
}

// Close closes the taps' files.
func (n *Network) Close() {
	if n == nil {
		return
	}
	for _, t := range n.Taps {
		t.close()
	}
	n.Taps = nil
}

// maxInterfaces is more than anybody has, and what names leave room for.
const maxInterfaces = 16

// Spares says how many devices a guest has for interfaces that come later.
type Spares struct {
	Count int
	// First is for a namespace that has no interface yet: there is one more.
	First bool
}

// maxQueues is from where on more of them cost more than they bring.
const maxQueues = 8

// Queues is how many queues the taps of a guest with so many vCPUs have.
func Queues(vcpus int) int { return max(1, min(vcpus, maxQueues)) }

// Connect connects every interface of the namespace at path; of the host's own, none. The taps have so many queues. What an earlier try of the same
// sandbox, or a sandbox that is gone, has left there is replaced. On error nothing is left.
func Connect(path string, key Key, queues int, spares Spares) (n *Network, err error) {
	err = inside(path, func(h *netlink.Handle) (err error) {
		if err := disconnect(h, key); err != nil {
			return err
		}
		there, err := read(h)
		if err != nil {
			return err
		}
		n = there.Network
		defer func() {
			if err != nil {
				n.Close()
				err = errors.Join(err, disconnect(h, key))
			}
		}()
		for i, link := range there.links {
			tap, err := makeTap(h, key.tapName(i), queues, link.Attrs().MTU)
			if err != nil {
				return err
			}
			n.Taps = append(n.Taps, Tap{tap.files, link.Attrs().HardwareAddr, link.Attrs().MTU})
			if err := join(h, key, link, tap.link); err != nil {
				return err
			}
			n.indexes = append(n.indexes, link.Attrs().Index)
		}
		if len(there.links) == 0 && spares.First {
			spares.Count++
		}
		return n.addSpares(h, key, queues, spares.Count)
	})
	if errors.Is(err, errOwnNamespace) {
		return &Network{Config: &agentv1.ConfigureNetworkRequest{}, Notes: []string{"the guest does not get the host's network"}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return n, nil
}

// Disconnect removes the sandbox's filters, queueing disciplines and taps from the namespace at path. A namespace that
// is gone has none.
func Disconnect(path string, key Key) error {
	if path == "" {
		return nil
	}
	err := inside(path, func(h *netlink.Handle) error { return disconnect(h, key) })
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, errNoNamespace) || errors.Is(err, errOwnNamespace) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("disconnect from network namespace %s: %w", path, err)
	}
	return nil
}

func disconnect(h *netlink.Handle, key Key) error {
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		if key.ownsTap(l.Attrs().Name) {
			err = h.LinkDel(l) // its discipline and filter go with it
		} else {
			err = part(h, key, l)
		}
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("%s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

// gone says that what was to be removed went by itself.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.As(err, new(netlink.LinkNotFoundError))
}
