package cri

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/moby/spdystream"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// command is one that runs in the container as kubectl has it run, over the protocol that the kubelet speaks to the
// engine: SPDY, where each stream ends by itself. An engine's WebSocket has no end of stdin.
type command struct {
	*container
	conn     net.Conn
	streams  *spdystream.Connection
	stdin    io.WriteCloser
	out, err bytes.Buffer // once it has ended
	status   bytes.Buffer // likewise: a meta/v1 Status
	reading  sync.WaitGroup
}

// run begins a command, whose stdin is for the caller to close.
func (c *container) run(args ...string) *command {
	c.t.Helper()
	r, err := runtime.Exec(testContext(c.t), &cri.ExecRequest{ContainerId: c.id, Cmd: args, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := &command{container: c}
	if cmd.conn, err = upgrade(r.Url); err != nil {
		c.t.Fatalf("connect to %s: %v", r.Url, err)
	}
	c.t.Cleanup(func() { _ = cmd.conn.Close() })
	if cmd.streams, err = spdystream.NewConnection(cmd.conn, false); err != nil {
		c.t.Fatal(err)
	}
	go cmd.streams.Serve(spdystream.NoOpStreamHandler)
	for kind, to := range map[string]io.Writer{"error": &cmd.status, "stdout": &cmd.out, "stderr": &cmd.err} {
		from := cmd.open(kind)
		cmd.reading.Go(func() { _, _ = io.Copy(to, from) })
	}
	cmd.stdin = cmd.open("stdin")
	return cmd
}

// upgrade turns a request to the engine's streaming server into a connection.
func upgrade(url string) (net.Conn, error) {
	request, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"v4.channel.k8s.io"},
	}
	conn, err := net.Dial("tcp", request.URL.Host)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(deadline))
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	// The engine says nothing more before it is asked for a stream.
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the engine answers %s", response.Status)
	}
	return conn, nil
}

func (cmd *command) open(kind string) *spdystream.Stream {
	cmd.t.Helper()
	s, err := cmd.streams.CreateStream(http.Header{"Streamtype": {kind}}, nil, false)
	if err == nil {
		err = s.WaitTimeout(deadline)
	}
	if err != nil {
		cmd.t.Fatalf("open stream %s: %v", kind, err)
	}
	return s
}

// end waits for the command's end, and for that of its output; the exit status is what the engine says last.
func (cmd *command) end() (status int) {
	cmd.t.Helper()
	cmd.reading.Wait()
	_ = cmd.streams.Close()
	var s struct {
		Status, Reason, Message string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(cmd.status.Bytes(), &s); err != nil {
		cmd.t.Fatalf("the engine's last word %q: %v", cmd.status.String(), err)
	}
	if s.Status == "Success" {
		return 0
	}
	for _, cause := range s.Details.Causes {
		if _, err := fmt.Sscan(cause.Message, &status); err == nil && cause.Reason == "ExitCode" {
			return status
		}
	}
	cmd.t.Fatalf("no exit status: %s", cmd.status.String())
	return -1
}
