package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// This program is also one for containers, where busybox has none: `guest PROGRAM ARGUMENT…`.
var guestPrograms = map[string]func(args []string) error{
	"echo":    guestEcho,
	"connect": guestConnect,
	"again":   guestAgain,
	"ask":     guestAsk,
	"send":    guestSend,
	"greet":   guestGreet,
	"threads": guestThreads,
}

const guestWord = "guest"

// guestFlags are those of ctr run for a container that has this program at guestPath.
func guestFlags(t *testing.T, more ...string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{"--mount", "type=bind,src=" + self + ",dst=" + guestPath + ",options=rbind:ro"}, more...)
}

const guestPath = "/e2e"

// guest is the command line of a program in a container.
func guest(args ...string) []string { return append([]string{guestPath, guestWord}, args...) }

func guestMain(args []string) int {
	if err := guestPrograms[args[0]](args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		return 1
	}
	return 0
}

// guestEcho answers datagrams at addresses, in upper case, for ever. It says where.
func guestEcho(args []string) error {
	ended := make(chan error)
	for _, address := range args {
		network := "udp" // at every address of IPv4 as well, when it is at every one of IPv6
		if strings.HasPrefix(address, "0.0.0.0:") {
			network = "udp4"
		}
		c, err := net.ListenPacket(network, address)
		if err != nil {
			return err
		}
		fmt.Println(c.LocalAddr())
		go func() { ended <- echo(c) }()
	}
	return <-ended
}

func echo(c net.PacketConn) error {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		_, _ = c.WriteTo(bytes.ToUpper(buf[:n]), from)
	}
}

// guestConnect is guestEcho for the first who sends to ADDRESS alone.
func guestConnect(args []string) error {
	c, err := net.ListenPacket("udp4", args[0])
	if err != nil {
		return err
	}
	_, from, err := c.ReadFrom(nil)
	if err != nil {
		return err
	}
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	first := from.(*net.UDPAddr).AddrPort()
	to := &unix.SockaddrInet4{Addr: first.Addr().Unmap().As4(), Port: int(first.Port())}
	controlErr := raw.Control(func(fd uintptr) { err = unix.Connect(int(fd), to) })
	if err := errors.Join(controlErr, err); err != nil {
		return err
	}
	return echo(c)
}

// guestSend sends datagrams to ADDRESS, of each SIZE, and waits for their answers in upper case.
func guestSend(args []string) error {
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for _, word := range args[1:] {
		size, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(bytes.Repeat([]byte("x"), size)); err != nil {
			return err
		}
		n, err := c.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], bytes.Repeat([]byte("X"), size)) {
			return fmt.Errorf("the answer to %d bytes has %d: %w", size, n, err)
		}
		fmt.Println(size)
	}
	return nil
}

const greeting = "hello"

// guestGreet greets who connects, and hangs up: NETWORK ADDRESS.
func guestGreet(args []string) error {
	l, err := net.Listen(args[0], args[1])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, err = io.WriteString(c, greeting)
		_ = c.Close()
		if err != nil {
			return err
		}
	}
}

// guestAgain listens and stops again: NETWORK ADDRESS TIMES.
func guestAgain(args []string) error {
	times, err := strconv.Atoi(args[2])
	for range times {
		var l io.Closer
		if strings.HasPrefix(args[0], "udp") {
			l, err = net.ListenPacket(args[0], args[1])
		} else {
			l, err = net.Listen(args[0], args[1])
		}
		if err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond) // until the host has heard of it
		_ = l.Close()
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// guestAsk looks up a name with the name servers of resolv.conf, by NETWORK.
func guestAsk(args []string) error {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, args[0], address)
	}}
	list, err := r.LookupNetIP(context.Background(), "ip4", args[1])
	fmt.Println(list)
	return err
}

// guestThreads has NUMBER threads for ever, and says so.
func guestThreads(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var up sync.WaitGroup
	up.Add(n)
	for range n {
		go func() {
			runtime.LockOSThread()
			up.Done()
			_, _ = unix.Poll(nil, -1)
		}()
	}
	up.Wait()
	fmt.Println(n)
	_, err = unix.Poll(nil, -1)
	return err
}
