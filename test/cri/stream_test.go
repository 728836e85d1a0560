package cri

import (
	"errors"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The channels of the streaming protocol v4.channel.k8s.io: each message begins with its channel's number.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelStatus
	channelResize
)

// stream is one end of an exec or attach.
type stream struct {
	t    *testing.T
	conn *websocket.Conn
	got  [5]strings.Builder
}

// open connects to where the engine streams, as the kubelet does for kubectl.
func open(t *testing.T, address string) *stream {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Scheme = "ws"
	config, err := websocket.NewConfig(u.String(), "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{"v4.channel.k8s.io"}
	conn, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatalf("connect to %s: %v", u, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(deadline))
	return &stream{t: t, conn: conn}
}

func (s *stream) send(channel byte, text string) {
	s.t.Helper()
	if err := websocket.Message.Send(s.conn, append([]byte{channel}, text...)); err != nil {
		s.t.Fatalf("send to channel %d: %v", channel, err)
	}
}

// receive takes one message; false at the end.
func (s *stream) receive() bool {
	s.t.Helper()
	var message []byte
	err := websocket.Message.Receive(s.conn, &message)
	if errors.Is(err, io.EOF) {
		return false
	}
	if err != nil {
		s.t.Fatalf("receive: %v", err)
	}
	if len(message) > 0 && int(message[0]) < len(s.got) {
		s.got[message[0]].Write(message[1:])
	}
	return true
}

// until receives until a channel has said text.
func (s *stream) until(channel byte, text string) {
	s.t.Helper()
	for !strings.Contains(s.got[channel].String(), text) {
		if !s.receive() {
			s.t.Fatalf("the stream ended; channel %d had %q", channel, s.got[channel].String())
		}
	}
}

func (s *stream) end() {
	s.t.Helper()
	for s.receive() {
	}
}

func (c *container) execStream(tty bool, args ...string) *stream {
	c.t.Helper()
	r, err := runtime.Exec(testContext(c.t), &cri.ExecRequest{
		ContainerId: c.id, Cmd: args, Tty: tty, Stdin: true, Stdout: true, Stderr: !tty,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return open(c.t, r.Url)
}

func (c *container) attach() *stream {
	c.t.Helper()
	r, err := runtime.Attach(testContext(c.t), &cri.AttachRequest{
		ContainerId: c.id, Tty: c.config.Tty, Stdin: true, Stdout: true, Stderr: !c.config.Tty,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return open(c.t, r.Url)
}

func TestStreamingExec(t *testing.T) {
	p := newPod(t)
	c := p.start(shell("main", idle))
	t.Run("pipes", func(t *testing.T) {
		s := c.execStream(false, "sh", "-c", "read line; echo out $line; echo err $line >&2; exit 3")
		s.send(channelStdin, "hello\n")
		s.end()
		if out, err := s.got[channelStdout].String(), s.got[channelStderr].String(); out != "out hello\n" || err != "err hello\n" {
			t.Errorf("%q %q", out, err)
		}
		if status := s.got[channelStatus].String(); !strings.Contains(status, "exit code 3") && !strings.Contains(status, `"message":"3"`) {
			t.Errorf("status %s", status)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		s := c.execStream(true, "sh", "-c", "test -t 0 && echo terminal; read x; exit 0")
		s.until(channelStdout, "terminal")
		s.send(channelStdin, "\n")
		s.end()
		if status := s.got[channelStatus].String(); !strings.Contains(status, "Success") {
			t.Errorf("status %s", status)
		}
	})
	t.Run("terminal's size", func(t *testing.T) {
		s := c.execStream(true, "sh", "-c", "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done")
		s.until(channelStdout, "ready")
		s.send(channelResize, `{"Width":77,"Height":33}`)
		s.until(channelStdout, "33 77")
	})
	t.Run("a lot", func(t *testing.T) {
		s := c.execStream(false, "sh", "-c", "seq 1 200000")
		s.end()
		if out := s.got[channelStdout].String(); !strings.HasSuffix(out, "\n199999\n200000\n") || len(out) != 1288895 {
			t.Errorf("%d bytes", len(out))
		}
	})
}

func TestAttach(t *testing.T) {
	p := newPod(t)
	for _, tty := range []bool{false, true} {
		name := map[bool]string{false: "pipes", true: "terminal"}[tty]
		t.Run(name, func(t *testing.T) {
			config := shell(name, "while read line; do echo got $line; [ $line != end ] || exit 6; done")
			config.Stdin, config.Tty = true, tty
			c := p.start(config)
			first := c.attach()
			first.send(channelStdin, "one\n")
			first.until(channelStdout, "got one")
			_ = first.conn.Close()
			// Who comes back finds the process where it was.
			second := c.attach()
			second.send(channelStdin, "two\n")
			second.until(channelStdout, "got two")
			second.send(channelStdin, "end\n")
			second.until(channelStdout, "got end")
			c.expectExit(6)
			if log := c.log(); !strings.Contains(log, "got one") || !strings.Contains(log, "got two") {
				t.Errorf("log %q", log)
			}
		})
	}
}
