package kvm

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParavirtualKVMIsNoKVM(t *testing.T) {
	for flags, ok := range map[string]bool{"fpu svm sse": true, "vmx": true, "fpu hypervisor svmx": false} {
		path := filepath.Join(t.TempDir(), "cpuinfo")
		if err := os.WriteFile(path, []byte("processor\t: 0\nflags\t\t: "+flags+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkHardware(path); (err == nil) != ok {
			t.Errorf("flags %q: %v", flags, err)
		}
	}
}
