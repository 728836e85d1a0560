package kvm

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// checkHardware refuses a KVM without hardware virtualization behind it. Such a paravirtual KVM (kvm_pvm) opens
// and answers every question, but emulates a stock kernel instruction by instruction and soon meets one it
// can't.
func checkHardware(cpuinfo string) error {
	f, err := os.Open(cpuinfo)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		name, value, _ := strings.Cut(s.Text(), ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			if flag == "svm" || flag == "vmx" {
				return nil
			}
		}
		return fmt.Errorf("%s shows neither svm nor vmx: this KVM has no hardware virtualization behind it", cpuinfo)
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read %s: %w", cpuinfo, err)
	}
	return fmt.Errorf("%s has no flags", cpuinfo)
}
