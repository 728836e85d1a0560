// Package stdio carries a process's streams between containerd's fifos and the guest.
//
// In the guest's direction a stream is one connection of the guest's agent to the Hub. It begins with the
// stream's id, preceded by its length in one byte; the hub answers with one byte, 1, and the rest is the
// stream. Its end is the half-close, both ways. The guest is hostile: it can dial at any time and send
// anything, and reaches only streams whose ids it was told.
package stdio

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// greetTime is how long a connection may take to say which stream it is.
const greetTime = 10 * time.Second

// maxGreeting bounds the connections that have not said it yet. One more takes the place of the oldest: any process of
// the guest can dial and say nothing, and must not keep out those that have something to say.
const maxGreeting = 64

// graceTime is what even the oldest is given. As many connections as the VMM takes of its guest, 1024, have had theirs in four
// seconds.
const graceTime = 250 * time.Millisecond

// Hub accepts the guest's stream connections and hands each to the session that expects it.
type Hub struct {
	listener *net.UnixListener
	running  sync.WaitGroup

	mu       sync.Mutex
	expected map[string]chan<- *net.UnixConn
	served   map[string]func(*net.UnixConn) // for as long as there is a hub
	greeters []greeter                      // the oldest first
	closed   bool
}

// greeter is a connection that has not said its id yet.
type greeter struct {
	conn  *net.UnixConn
	since time.Time
}

// Listen starts a hub on the unix socket that the VM's vsock connects to.
func Listen(path string) (*Hub, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for streams: %w", err)
	}
	h := &Hub{
		listener: listener,
		expected: make(map[string]chan<- *net.UnixConn),
		served:   make(map[string]func(*net.UnixConn)),
	}
	h.running.Add(1)
	go h.accept()
	return h, nil
}

// Close stops accepting: whoever still expects a connection gets none. Those already handed over live on.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	for _, g := range h.greeters {
		_ = g.conn.Close()
	}
	for id, taker := range h.expected {
		delete(h.expected, id)
		close(taker)
	}
	h.mu.Unlock()
	err := h.listener.Close()
	h.running.Wait()
	return err
}

func (h *Hub) accept() {
	defer h.running.Done()
	for {
		conn, err := h.listener.AcceptUnix()
		if err != nil {
			if Again(err) {
				continue
			}
			return
		}
		h.makeRoom()
		h.mu.Lock()
		h.greeters = append(h.greeters, greeter{conn, time.Now()})
		closed := h.closed
		h.mu.Unlock()
		if closed {
			_ = conn.Close()
		}
		h.running.Go(func() { h.greet(conn) })
	}
}

// makeRoom sees to it that one more may greet. Those beyond wait in the socket's queue meanwhile.
func (h *Hub) makeRoom() {
	for {
		h.mu.Lock()
		if len(h.greeters) < maxGreeting {
			h.mu.Unlock()
			return
		}
		wait := graceTime - time.Since(h.greeters[0].since)
		if wait <= 0 {
			_ = h.greeters[0].conn.Close()
			h.greeters = slices.Delete(h.greeters, 0, 1)
		}
		h.mu.Unlock()
		time.Sleep(wait)
	}
}

// againTime is the pause after a failure to accept that may pass.
const againTime = 50 * time.Millisecond

// Again says, after a pause, whether to accept connections once more: an error other than the listener's end, such as that
// there is no descriptor left, is not for ever.
func Again(err error) bool {
	if err == nil || errors.Is(err, net.ErrClosed) {
		return false
	}
	time.Sleep(againTime)
	return true
}

// greet reads the stream's id and hands the connection over, or closes it.
func (h *Hub) greet(conn *net.UnixConn) {
	id, err := readID(conn)
	h.mu.Lock()
	h.greeters = slices.DeleteFunc(h.greeters, func(g greeter) bool { return g.conn == conn })
	taker, serve := h.expected[id], h.served[id]
	if err == nil && taker != nil {
		delete(h.expected, id)
	}
	h.mu.Unlock()
	if err != nil || taker == nil && serve == nil {
		_ = conn.Close()
		return
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		_ = conn.Close()
		if taker != nil {
			close(taker)
		}
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if serve != nil {
		go serve(conn)
		return
	}
	taker <- conn
}

func readID(conn *net.UnixConn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(greetTime)); err != nil {
		return "", err
	}
	var length [1]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return "", err
	}
	id := make([]byte, length[0])
	if _, err := io.ReadFull(conn, id); err != nil {
		return "", err
	}
	return string(id), nil
}

// expect makes a stream known under a new id, which cannot be guessed. At most one connection arrives on the
// channel, which is closed instead when the guest broke off.
func (h *Hub) expect() (string, <-chan *net.UnixConn) {
	id := rand.Text()
	arrival := make(chan *net.UnixConn, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(arrival)
	} else {
		h.expected[id] = arrival
	}
	return id, arrival
}

// forget takes an id back. A connection that has arrived meanwhile is closed.
func (h *Hub) forget(id string, arrival <-chan *net.UnixConn) {
	h.mu.Lock()
	delete(h.expected, id)
	h.mu.Unlock()
	select {
	case conn := <-arrival:
		if conn != nil {
			_ = conn.Close()
		}
	default:
	}
}

// Connect asks for a stream, by the id that it hands to ask, and returns its connection. When ask fails there is none.
func (h *Hub) Connect(ask func(id string) error) (*net.UnixConn, error) {
	id, arrival := h.expect()
	if err := ask(id); err != nil {
		h.forget(id, arrival)
		return nil, err
	}
	select {
	case conn := <-arrival:
		if conn != nil {
			return conn, nil
		}
	case <-time.After(greetTime): // the guest says that it has dialled
		h.forget(id, arrival)
	}
	return nil, errors.New("the guest did not open the stream that it was asked for")
}

// Serve returns an id that the guest may open as many streams with as it likes. Each is f's.
func (h *Hub) Serve(f func(*net.UnixConn)) (id string) {
	id = rand.Text()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.served[id] = f
	return id
}
