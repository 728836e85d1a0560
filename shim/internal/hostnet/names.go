package hostnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// maxNames is how many name servers resolv.conf(5) takes; maxResolv is more than any is long.
	maxNames  = 3
	maxResolv = 64 << 10
	namePort  = 53
	// nameTime is what a name server may take to be connected with.
	nameTime = 10 * time.Second
)

// NameServers are those of a resolv.conf(5) that are at an IPv4 address of the loopback. The file may be a container's
// to write.
func NameServers(path string) ([]netip.Addr, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for name servers: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	return loopbackNameServers(io.LimitReader(f, maxResolv)), nil
}

func loopbackNameServers(text io.Reader) (list []netip.Addr) {
	for s, seen := bufio.NewScanner(text), 0; s.Scan() && seen < maxNames; {
		words := strings.Fields(s.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		ip, err := netip.ParseAddr(words[1])
		if err != nil {
			continue
		}
		seen++ // who looks names up asks no more than so many
		if ip.Is4() && ip.IsLoopback() && !slices.Contains(list, ip) {
			list = append(list, ip)
		}
	}
	return list
}

// DialNameServer connects with the name server at an address, by "tcp" or "udp", within the network namespace at path;
// an empty path is this process's. Who holds the connection keeps the namespace in being.
func DialNameServer(path, network string, ip netip.Addr) (conn net.Conn, err error) {
	dial := func(*netlink.Handle) (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), nameTime)
		defer cancel()
		conn, err = new(net.Dialer).DialContext(ctx, network, netip.AddrPortFrom(ip, namePort).String())
		return err
	}
	if path == "" {
		err = dial(nil)
	} else {
		err = inside(path, dial)
	}
	if err != nil {
		return nil, fmt.Errorf("name server %s: %w", ip, err)
	}
	return conn, nil
}
