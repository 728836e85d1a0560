package cgroup

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/bpf"
)

// attach gives a program of a kind to the group, which keeps it.
func attach(group int, program []bpf.Instruction, kind, where uint32) error {
	fd, err := bpf.Check(program, kind, where)
	if err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	defer unix.Close(fd)
	if err := bpf.Attach(group, fd, where); err != nil {
		return fmt.Errorf("attach program: %w", err)
	}
	return nil
}
