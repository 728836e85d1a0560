// Package listeners knows which sockets of the guest listen. It is called by package agent, for hosts that are to
// listen in the guest's stead.
package listeners

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/huskvm/husk/guest-agent/internal/cgroup"
)

const (
	// settleTime is between a socket's change and the look at all: it is told of before it happens.
	settleTime = 10 * time.Millisecond
	// secondTime is until the look that finds what took longer.
	secondTime = time.Second
)

// Listener is where a socket takes what comes.
type Listener struct {
	netip.AddrPort
	UDP bool
}

func (l Listener) compare(m Listener) int {
	if l.UDP != m.UDP {
		if m.UDP {
			return -1
		}
		return 1
	}
	return l.AddrPort.Compare(m.AddrPort)
}

// Watch tells all sockets that listen, whenever they have changed. It returns when it can do so no more.
func Watch(tell func([]Listener)) error {
	changed := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- cgroup.Listening(func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	var tables Tables
	var last []Listener
	var first, second <-chan time.Time
	for {
		select {
		case <-changed:
			// Sockets that come and go all the time are no reason not to look.
			if first == nil {
				first = time.After(settleTime)
			}
			second = time.After(secondTime)
			continue
		case <-first:
			first = nil
		case <-second:
		case err := <-ended:
			return err
		}
		all, err := tables.List("/proc")
		if err != nil {
			return err
		}
		if !slices.Equal(all, last) {
			tell(all)
			last = all
		}
	}
}

// Tables are the kernel's, looked at again and again. The zero value is ready.
type Tables struct {
	servers map[string]netip.AddrPort // sockets of UDP that have been listed, by inode
}

// List reads who listens from what is at proc. A socket of UDP does without a peer, at a port that the kernel does not
// choose for those who don't care; and it goes on doing so when it gets one, as some servers have it, by which its own address
// may become one of all that it had.
func (t *Tables) List(proc string) (all []Listener, err error) {
	for _, table := range []string{"tcp", "tcp6"} {
		err := read(proc+"/net/"+table, func(f []string) error {
			if f[3] != listening {
				return nil
			}
			a, err := parse(f[1])
			all = append(all, Listener{AddrPort: a})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	servers, err := t.readServers(proc)
	if err != nil {
		return nil, err
	}
	for _, a := range servers {
		all = append(all, Listener{a, true})
	}
	t.servers = servers
	slices.SortFunc(all, Listener.compare)
	return slices.Compact(all), nil
}

// readServers reads the tables of UDP. A socket that was there before is looked for twice: a long table is read in pieces,
// and what ends meanwhile moves others out of sight.
func (t *Tables) readServers(proc string) (map[string]netip.AddrPort, error) {
	first, last, err := localPorts(proc)
	if err != nil {
		return nil, err
	}
	servers := map[string]netip.AddrPort{}
	for range 2 {
		for _, table := range []string{"udp", "udp6"} {
			err := read(proc+"/net/"+table, func(f []string) error {
				inode := f[9]
				a, known := t.servers[inode]
				if !known {
					var err error
					if a, err = parse(f[1]); err != nil || f[3] != unconnected || first <= a.Port() && a.Port() <= last {
						return err
					}
				}
				servers[inode] = a
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		gone := func(inode string) bool { _, there := servers[inode]; return !there }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(t.servers)), gone) {
			break
		}
	}
	return servers, nil
}

// States as the tables have them.
const (
	listening   = "0A" // TCP_LISTEN
	unconnected = "07"
)

// read calls f with the fields of each socket of a table.
func read(path string, f func([]string) error) error {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil // there is no IPv6
	}
	if err != nil {
		return fmt.Errorf("list sockets: %w", err)
	}
	first := true
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if first || len(fields) < 10 {
			first = false // the columns' names
			continue
		}
		if err := f(fields); err != nil {
			return fmt.Errorf("list sockets: %q: %w", fields[1], err)
		}
	}
	return nil
}

// localPorts are those that the kernel chooses from.
func localPorts(proc string) (first, last uint16, err error) {
	text, err := os.ReadFile(proc + "/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &last)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find the range of local ports: %w", err)
	}
	return first, last, nil
}

// parse takes an address and a port in hexadecimal; of the address each word is a number of this machine's.
func parse(s string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for w := b; len(w) >= 4; w = w[4:] {
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("an address of %d bytes", len(b))
	}
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip, uint16(n)), err
}
