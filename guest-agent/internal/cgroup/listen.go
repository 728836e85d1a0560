package cgroup

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
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
	tcp, udp := encode(listenProgram(int32(r.fd))), encode(bindProgram(int32(r.fd)))
	for _, p := range []struct {
		program     []instruction
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

// Registers and operations of the programs here.
const (
	regSaved, regValue, regStack = 6, 7, 10

	opJump     = unix.BPF_JMP | unix.BPF_JA
	opCall     = unix.BPF_JMP | unix.BPF_CALL
	opAdd      = unix.BPF_ALU64 | unix.BPF_ADD | unix.BPF_K
	opStore    = unix.BPF_ST | unix.BPF_MEM | unix.BPF_DW
	opLoadWide = unix.BPF_LD | unix.BPF_DW | unix.BPF_IMM
)

// listenProgram puts a word into the ring when a socket begins to listen, for which it asks to hear of its further
// states, and when it stops.
func listenProgram(ring int32) []instruction {
	return append([]instruction{
		{opMove, regSaved | regContext<<4, 0, 0},
		{opLoad, regValue | regSaved<<4, sockOperation, 0},
		{opIf, regValue, 4, unix.BPF_SOCK_OPS_TCP_LISTEN_CB},
		{opUnless, regValue, 6 + wordSize, unix.BPF_SOCK_OPS_STATE_CB}, // to the end
		{opLoad, regValue | regSaved<<4, sockOldState, 0},
		{opIf, regValue, 4, unix.BPF_TCP_LISTEN}, // to the ring
		{opJump, 0, 3 + wordSize, 0},             // to the end
		{opMove, 1 | regSaved<<4, 0, 0},
		{opMoveImm, 2, 0, unix.BPF_SOCK_OPS_STATE_CB_FLAG},
		{opCall, 0, 0, helperSetFlags},
	}, putWord(ring)...)
}

// bindProgram puts a word into the ring for every socket of UDP.
func bindProgram(ring int32) []instruction {
	return append([]instruction{
		{opLoad, regValue | regContext<<4, sockProtocol, 0},
		{opUnless, regValue, wordSize, unix.IPPROTO_UDP}, // to the end
	}, putWord(ring)...)
}

// wordSize is how many instructions of putWord come before the end.
const wordSize = 8

// putWord puts a word into the ring, and ends the program: with yes, for what asks.
func putWord(ring int32) []instruction {
	return []instruction{
		{opStore, regStack, -8, 0},
		{opLoadWide, 1 | unix.BPF_PSEUDO_MAP_FD<<4, 0, ring},
		{}, // its second half
		{opMove, 2 | regStack<<4, 0, 0},
		{opAdd, 2, 0, -8},
		{opMoveImm, 3, 0, 8},
		{opMoveImm, 4, 0, 0},
		{opCall, 0, 0, helperRingOutput},
		{opMoveImm, regResult, 0, 1},
		{opExit, 0, 0, 0},
	}
}
