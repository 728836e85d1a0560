package control

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUnclaimed bounds the descriptors that wait for the request that names them: one for each mount of a container, and those
// of requests that were given up, which are dropped first.
const maxUnclaimed = 4096

// Donations are descriptors received over a SOCK_SEQPACKET socket, each under its token. They are received as they come: a
// socket holds some two hundred, and the client would wait for ever to send more.
type Donations struct {
	conn   net.Conn
	socket syscall.RawConn
	done   chan struct{} // closed when nothing is received any more

	mu    sync.Mutex
	files map[uint32]*os.File
	err   error // what was wrong with a donation
}

// NewDonations takes the socket over.
func NewDonations(socket *os.File) (*Donations, error) {
	conn, err := net.FileConn(socket)
	_ = socket.Close()
	if err != nil {
		return nil, fmt.Errorf("donor socket: %w", err)
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("donor socket: %w", err), conn.Close())
	}
	d := &Donations{conn: conn, socket: raw, done: make(chan struct{}), files: map[uint32]*os.File{}}
	go func() {
		defer close(d.done)
		// It ends with the client, and with Close.
		_ = d.socket.Read(func(fd uintptr) bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.receive(int(fd))
		})
	}()
	return d, nil
}

// Take returns the descriptor of a token, once; the caller owns it. Token 0 is "none" and gives nil. The client
// sends a descriptor before the request that names it, so there is nothing to wait for.
func (d *Donations) Take(token uint32) (*os.File, error) {
	if token == 0 {
		return nil, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.files[token]
	if !ok {
		if err := d.socket.Control(func(fd uintptr) { d.receive(int(fd)) }); err != nil {
			return nil, fmt.Errorf("receive a donated descriptor: %w", err)
		}
		f, ok = d.files[token]
	}
	if !ok {
		return nil, errors.Join(fmt.Errorf("no descriptor was donated under token %d", token), d.err)
	}
	delete(d.files, token)
	return f, nil
}

// Close drops whatever was not taken.
func (d *Donations) Close() {
	_ = d.conn.Close()
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	for token, f := range d.files {
		_ = f.Close()
		delete(d.files, token)
	}
}

// receive takes in everything that is waiting on the socket, and says whether that was the last. It is called with the lock
// held.
func (d *Donations) receive(fd int) (last bool) {
	payload, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, payload, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EAGAIN:
			return false
		case err == unix.EINTR:
			continue
		case err != nil:
			d.err = fmt.Errorf("receive a donated descriptor: %w", err)
			return true
		case n == 0:
			return true // the client is gone
		}
		if err := d.keep(string(payload[:n]), oob[:oobn]); err != nil {
			d.err = err
		}
	}
}

// keep takes in one descriptor.
func (d *Donations) keep(name string, oob []byte) error {
	token, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return fmt.Errorf("donated descriptor's token: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("donation %d carries no descriptor", token)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("donation %d carries no descriptor", token)
	}
	d.files[uint32(token)] = os.NewFile(uintptr(fds[0]), fmt.Sprintf("donation %d", token))
	if len(d.files) > maxUnclaimed {
		oldest := slices.Min(slices.Collect(maps.Keys(d.files)))
		_ = d.files[oldest].Close()
		delete(d.files, oldest)
		return fmt.Errorf("donation %d was dropped: %d others wait for a request", oldest, maxUnclaimed)
	}
	return nil
}
