// Package listeners knows which TCP sockets of the guest listen. It is called by package agent, for hosts that are to
// listen in the guest's stead.
package listeners

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
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

// Watch tells all sockets that listen, whenever they have changed. It returns when it can do so no more.
func Watch(tell func([]netip.AddrPort)) error {
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
	var last []netip.AddrPort
	var first, second <-chan time.Time
	for {
		select {
		case <-changed:
			first, second = time.After(settleTime), time.After(secondTime)
			continue
		case <-first:
		case <-second:
		case err := <-ended:
			return err
		}
		all, err := List("/proc/net")
		if err != nil {
			return err
		}
		if !slices.Equal(all, last) {
			tell(all)
			last = all
		}
	}
}

// List reads who listens from the tables in a directory.
func List(dir string) (all []netip.AddrPort, err error) {
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(dir + "/" + table)
		if os.IsNotExist(err) {
			continue // there is no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && f[3] == listening {
				a, err := parse(f[1])
				if err != nil {
					return nil, fmt.Errorf("list sockets: %q: %w", f[1], err)
				}
				all = append(all, a)
			}
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all), nil
}

// listening is TCP_LISTEN as the tables have it.
const listening = "0A"

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
