package listeners

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

func TestWhoListensIsInTheList(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "127.9.8.7:0", "0.0.0.0:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Log(err)
			continue
		}
		want := l.Addr().(*net.TCPAddr).AddrPort()
		if want.Addr().Is4In6() {
			want = netip.AddrPortFrom(want.Addr().Unmap(), want.Port())
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		all, err := List("/proc/net")
		if err != nil || !slices.Contains(all, want) {
			t.Errorf("%v, %v; want %s", all, err, want)
		}
		if own := c.LocalAddr().(*net.TCPAddr).AddrPort(); slices.Contains(all, own) {
			t.Errorf("%s listens not", own)
		}
		_ = l.Close()
		if all, err := List("/proc/net"); err != nil || slices.Contains(all, want) {
			t.Errorf("%v, %v; without %s", all, err, want)
		}
		_ = c.Close()
	}
}
