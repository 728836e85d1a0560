package cgroup

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/bpf"
)

// Listening calls changed whenever a TCP socket of the guest begins to listen, or is about to stop, and when one of UDP is
// bound, or about to be closed. It returns when it can do so no more.
func Listening(changed func()) error {
	r, err := newRing()
	if err != nil {
		return err
	}
	defer r.file.Close()
	root, err := os.Open(mountPoint)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer root.Close()
	tcp, udp := listenProgram(r.fd), bindProgram(r.fd)
	for _, p := range []struct {
		program     []bpf.Instruction
		kind, where uint32
	}{
		{tcp, unix.BPF_PROG_TYPE_SOCK_OPS, unix.BPF_CGROUP_SOCK_OPS},
		{udp, unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET4_POST_BIND},
		{udp, unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET6_POST_BIND},
		{udp, unix.BPF_PROG_TYPE_CGROUP_SOCK, unix.BPF_CGROUP_INET_SOCK_RELEASE},
	} {
		if err := attach(int(root.Fd()), p.program, p.kind, p.where); err != nil {
			return fmt.Errorf("watch sockets: %w", err)
		}
	}
	raw, err := r.file.SyscallConn()
	if err != nil {
		return err
	}
	changed() // what listens already
	for {
		if err := raw.Read(func(uintptr) bool { return r.take() }); err != nil {
			return fmt.Errorf("wait for sockets: %w", err)
		}
		changed()
	}
}

// Offsets in struct bpf_sock_ops and struct bpf_sock, and helpers by their numbers.
const (
	sockOperation = 0
	sockOldState  = 4
	sockProtocol  = 12

	helperSetFlags   = 59
	helperRingOutput = 130
)

// Registers of the programs here.
const regSaved, regValue, regStack = 6, 7, 10

// listenProgram puts a word into the ring when a socket begins to listen, for which it asks to hear of its further
// states, and when it stops.
func listenProgram(ring int) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.Op(bpf.Move, regSaved|regContext<<4, 0, 0),
		bpf.Op(bpf.Load, regValue|regSaved<<4, sockOperation, 0),
		bpf.Op(bpf.If, regValue, 4, unix.BPF_SOCK_OPS_TCP_LISTEN_CB),
		bpf.Op(bpf.Unless, regValue, 6+wordSize, unix.BPF_SOCK_OPS_STATE_CB), // to the end
		bpf.Op(bpf.Load, regValue|regSaved<<4, sockOldState, 0),
		bpf.Op(bpf.If, regValue, 4, unix.BPF_TCP_LISTEN), // to the ring
		bpf.Op(bpf.Jump, 0, 3+wordSize, 0),               // to the end
		bpf.Op(bpf.Move, 1|regSaved<<4, 0, 0),
		bpf.Op(bpf.MoveImm, 2, 0, unix.BPF_SOCK_OPS_STATE_CB_FLAG),
		bpf.Op(bpf.Call, 0, 0, helperSetFlags),
	}, putWord(ring)...)
}

// bindProgram puts a word into the ring for every socket of UDP.
func bindProgram(ring int) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.Op(bpf.Load, regValue|regContext<<4, sockProtocol, 0),
		bpf.Op(bpf.Unless, regValue, wordSize, unix.IPPROTO_UDP), // to the end
	}, putWord(ring)...)
}

// wordSize is how many instructions of putWord come before the end.
const wordSize = 8

// putWord puts a word into the ring, and ends the program: with yes, for what asks.
func putWord(ring int) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.Op(bpf.StoreImmWide, regStack, -8, 0),
		bpf.LoadMap(1, ring),
		{}, // its second half
		bpf.Op(bpf.Move, 2|regStack<<4, 0, 0),
		bpf.Op(bpf.Add, 2, 0, -8),
		bpf.Op(bpf.MoveImm, 3, 0, 8),
		bpf.Op(bpf.MoveImm, 4, 0, 0),
		bpf.Op(bpf.Call, 0, 0, helperRingOutput),
		bpf.Op(bpf.MoveImm, regResult, 0, 1),
		bpf.Op(bpf.Exit, 0, 0, 0),
	}
}
