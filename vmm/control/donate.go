package control

import (
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Donations are descriptors received over a SOCK_SEQPACKET socket, each under its token.
type Donations struct {
	socket *os.File

	mu    sync.Mutex
	files map[uint32]*os.File
}

// NewDonations takes the socket over.
func NewDonations(socket *os.File) *Donations {
	return &Donations{socket: socket, files: map[uint32]*os.File{}}
}

// Take returns the descriptor of a token, once; the caller owns it. Token 0 is "none" and gives nil. The client
// sends a descriptor before the request that names it, so there is nothing to wait for.
func (d *Donations) Take(token uint32) (*os.File, error) {
	if token == 0 {
		return nil, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.receive(); err != nil {
		return nil, err
	}
	f, ok := d.files[token]
	if !ok {
		return nil, fmt.Errorf("no descriptor was donated under token %d", token)
	}
	delete(d.files, token)
	return f, nil
}

// Close drops whatever was not taken.
func (d *Donations) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for token, f := range d.files {
		_ = f.Close()
		delete(d.files, token)
	}
	_ = d.socket.Close()
}

// receive takes in everything that is waiting on the socket.
func (d *Donations) receive() error {
	payload, oob := make([]byte, 16), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(int(d.socket.Fd()), payload, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EAGAIN:
			return nil
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("receive a donated descriptor: %w", err)
		case n == 0:
			return nil // the client is gone
		}
		token, err := strconv.ParseUint(string(payload[:n]), 10, 32)
		if err != nil {
			return fmt.Errorf("donated descriptor's token: %w", err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			return fmt.Errorf("donation %d carries no descriptor", token)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			return fmt.Errorf("donation %d carries no descriptor", token)
		}
		d.files[uint32(token)] = os.NewFile(uintptr(fds[0]), fmt.Sprintf("donation %d", token))
	}
}
