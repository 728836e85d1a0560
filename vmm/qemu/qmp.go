package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// ErrGone is of calls to a QEMU that has closed its end.
var ErrGone = errors.New("QEMU is gone")

// monitor is our end of a QMP line. Calls may run side by side.
type monitor struct {
	conn    *os.File
	events  func(name string, data json.RawMessage) // called by the reader; must not call
	greeted chan struct{}                           // closed by the greeting
	out     chan []byte                             // to the writer
	written chan struct{}                           // closed when nothing more can be sent
	done    chan struct{}                           // closed when nothing more comes

	mu    sync.Mutex
	last  uint64                  // id of the last command
	calls map[uint64]chan message // waiting for an answer; each has room for it
	err   error                   // why done was closed
}

// newMonitor starts to read and write. conn is the monitor's, and closed by finish.
func newMonitor(conn *os.File, events func(string, json.RawMessage)) *monitor {
	m := &monitor{
		conn: conn, events: events,
		greeted: make(chan struct{}), out: make(chan []byte), written: make(chan struct{}), done: make(chan struct{}),
		calls: make(map[uint64]chan message),
	}
	go m.read()
	go m.write()
	return m
}

// read ends at the end of the line or at the first thing on it that is not QMP.
func (m *monitor) read() {
	err := m.scan()
	m.mu.Lock()
	m.err = err
	m.mu.Unlock()
	close(m.done)
}

func (m *monitor) scan() error {
	s := bufio.NewScanner(m.conn)
	s.Buffer(make([]byte, 0, 4<<10), maxMessage)
	greeted := false
	for s.Scan() {
		msg, err := decode(s.Bytes())
		switch {
		case err != nil:
			return err
		case msg.Greeting != nil:
			if greeted {
				return errors.New("QMP: a second greeting")
			}
			greeted = true
			close(m.greeted)
		case msg.Event != "":
			m.events(msg.Event, msg.Data)
		default:
			m.answer(msg)
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("QMP: a line of more than %d bytes", maxMessage)
	}
	return ErrGone
}

// write sends whole commands, so that a call that is given up leaves no half of one behind.
func (m *monitor) write() {
	defer close(m.written)
	for {
		select {
		case line := <-m.out:
			if _, err := m.conn.Write(line); err != nil {
				return
			}
		case <-m.done:
			return
		}
	}
}

// answer gives a message to its call. One that nobody waits for, or no longer, is dropped.
func (m *monitor) answer(msg message) {
	id, ok := msg.id()
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.calls[id]; ok {
		delete(m.calls, id)
		c <- msg
	}
}

// call runs a command and decodes its answer into result, which may be nil.
func (m *monitor) call(ctx context.Context, name string, result any) error {
	answer := make(chan message, 1)
	m.mu.Lock()
	m.last++
	id := m.last
	m.calls[id] = answer
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.calls, id)
		m.mu.Unlock()
	}()
	if err := m.send(ctx, command{Execute: name, ID: id}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	select {
	case msg := <-answer:
		return unpack(name, msg, result)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", name, ctx.Err())
	case <-m.done:
	}
	select {
	case msg := <-answer: // it was the last that came
		return unpack(name, msg, result)
	default:
		return fmt.Errorf("%s: %w", name, m.cause())
	}
}

// send leaves a command to the writer, which a QEMU that reads nothing may hold up.
func (m *monitor) send(ctx context.Context, c command) error {
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	select {
	case m.out <- append(line, '\n'):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-m.written:
		return ErrGone
	}
}

func (m *monitor) cause() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func unpack(name string, msg message, result any) error {
	if msg.Error != nil {
		return fmt.Errorf("%s: %w", name, msg.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(msg.Return, result); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// negotiate waits for the greeting and enters command mode. QEMU answers once its machine is complete.
func (m *monitor) negotiate(ctx context.Context) error {
	select {
	case <-m.greeted:
	case <-m.done:
		return m.cause()
	case <-ctx.Done():
		return fmt.Errorf("QEMU does not greet: %w", ctx.Err())
	}
	return m.call(ctx, "qmp_capabilities", nil)
}

// finish waits until all that QEMU said before its end is read, and closes. A line that something else of QEMU's
// holds open is cut off after d.
func (m *monitor) finish(d time.Duration) {
	_ = m.conn.SetReadDeadline(time.Now().Add(d))
	<-m.done
	_ = m.conn.Close()
	<-m.written
}
