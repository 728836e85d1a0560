// Command husk-net is the network of a guest that is to have the host's: the shim starts one for a VM whose container
// asks for no network namespace. Descriptor 3 is a socket of the guest's frames, with whose end it ends.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/shim/internal/usernet"
)

const (
	framesFD = 3
	// memory is what the process tries to do with; its cgroup is the sandbox's.
	memory = 96 << 20
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "husk-net:", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	c := usernet.Config{Aliases: map[netip.Addr]netip.Addr{}}
	flags := flag.NewFlagSet("husk-net", flag.ContinueOnError)
	flags.Func("guest", "an address of the guest's", into(&c.Guests))
	flags.Func("gateway", "an address of the gateway's, of the same family", into(&c.Gateways))
	flags.IntVar(&c.MTU, "mtu", 1500, "of the link")
	flags.Func("mac", "the guest's hardware address", func(s string) (err error) {
		c.GuestMAC, err = net.ParseMAC(s)
		return err
	})
	flags.Func("alias", "ADDRESS=ADDRESS of the host", func(s string) error {
		alias, address, _ := strings.Cut(s, "=")
		from, err := netip.ParseAddr(alias)
		if err != nil {
			return err
		}
		c.Aliases[from], err = netip.ParseAddr(address)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	debug.SetMemoryLimit(memory)
	if err := becomeNobody(); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	if err := unix.SetNonblock(framesFD, true); err != nil {
		return fmt.Errorf("frames on descriptor %d: %w", framesFD, err)
	}
	return usernet.Serve(os.NewFile(framesFD, "frames"), c)
}

// into adds an address to a list.
func into(list *[]netip.Addr) func(string) error {
	return func(s string) error {
		ip, err := netip.ParseAddr(s)
		*list = append(*list, ip)
		return err
	}
}

// nobody owns nothing.
const nobody = 65534

// becomeNobody leaves the process what everybody has: sockets.
func becomeNobody() error {
	parent := os.Getppid()
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
		return err
	}
	// To end with the parent is forgotten with the user.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	if os.Getppid() != parent {
		return errors.New("the parent has ended")
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
