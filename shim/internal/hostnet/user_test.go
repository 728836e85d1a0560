package hostnet

import "testing"

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
