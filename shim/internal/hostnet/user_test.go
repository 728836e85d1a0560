package hostnet

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestNameServersOfLoopback(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# nameserver 127.0.0.1\nsearch example\nnameserver 192.0.2.1\nnameserver 127.0.0.53\nnameserver ::1\nnameserver\nnameserver x\nnameserver 127.0.0.11 \n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(loopbackNameServers(path)); got != "[127.0.0.53 127.0.0.11]" {
		t.Error(got)
	}
	if got := loopbackNameServers(path + "x"); got != nil {
		t.Error(got)
	}
}

func TestFramesOfAUserNetwork(t *testing.T) {
	path, _ := namespace(t)
	n, err := User(path, KeyOf("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	defer n.Frames.Close()
	out := append(addressed(n.Taps[0].MAC, 0x88, 0xb5), make([]byte, 60000)...)
	if _, err := n.Taps[0].Files[0].Write(append(make([]byte, header), out...)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1<<17)
	if size, err := n.Frames.Read(got); err != nil || size != len(out) {
		t.Errorf("%d bytes, %v", size, err)
	}
	if _, err := n.Frames.Write(out); err != nil {
		t.Fatal(err)
	}
	if size, err := n.Taps[0].Files[0].Read(got); err != nil || size != header+len(out) {
		t.Errorf("%d bytes, %v", size, err)
	}
}
