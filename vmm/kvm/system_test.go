package kvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNewRefusesAFileThatIsNotKVM(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := New(f); err == nil || !strings.Contains(err.Error(), "/dev/kvm") {
		t.Errorf("got %v", err)
	}
}

func TestProbeOfAMissingDeviceNamesTheRemedy(t *testing.T) {
	err := Probe(filepath.Join(t.TempDir(), "kvm"))
	if err == nil || !strings.Contains(err.Error(), "kvm_intel") {
		t.Errorf("got %v", err)
	}
}

func TestRequireNamesEveryMissingCapability(t *testing.T) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no KVM here: %v", err)
	}
	s, err := New(f)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Require(CapUserMemory, Capability(0x7fff0001), Capability(0x7fff0002))
	if err == nil {
		t.Fatal("capabilities that don't exist are there")
	}
	for _, name := range []string{Capability(0x7fff0001).String(), Capability(0x7fff0002).String()} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	if strings.Contains(err.Error(), CapUserMemory.String()) {
		t.Errorf("%v names one that is there", err)
	}
}
