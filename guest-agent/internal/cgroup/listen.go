package cgroup

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Listening calls changed whenever a TCP socket of the guest begins to listen, or is about to stop. It returns when it
// can do so no more.
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
	program := encode(listenProgram(int32(r.fd)))
	if err := attach(int(root.Fd()), program, unix.BPF_PROG_TYPE_SOCK_OPS, unix.BPF_CGROUP_SOCK_OPS); err != nil {
		return fmt.Errorf("watch sockets: %w", err)
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

// Offsets in struct bpf_sock_ops, and helpers by their numbers.
const (
	sockOperation = 0
	sockOldState  = 4

	helperSetFlags   = 59
	helperRingOutput = 130
)

// listenProgram puts a word into the ring when a socket begins to listen, for which it asks to hear of its further
// states, and when it stops.
func listenProgram(ring int32) []instruction {
	const (
		ctx, value, stack = 6, 7, 10

		jump     = unix.BPF_JMP | unix.BPF_JA
		call     = unix.BPF_JMP | unix.BPF_CALL
		add      = unix.BPF_ALU64 | unix.BPF_ADD | unix.BPF_K
		store    = unix.BPF_ST | unix.BPF_MEM | unix.BPF_DW
		loadWide = unix.BPF_LD | unix.BPF_DW | unix.BPF_IMM
	)
	return []instruction{
		{opMove, ctx | regContext<<4, 0, 0},
		{opLoad, value | ctx<<4, sockOperation, 0},
		{opIf, value, 4, unix.BPF_SOCK_OPS_TCP_LISTEN_CB},
		{opUnless, value, 14, unix.BPF_SOCK_OPS_STATE_CB}, // to the end
		{opLoad, value | ctx<<4, sockOldState, 0},
		{opIf, value, 4, unix.BPF_TCP_LISTEN}, // to the ring
		{jump, 0, 11, 0},                      // to the end
		{opMove, 1 | ctx<<4, 0, 0},
		{opMoveImm, 2, 0, unix.BPF_SOCK_OPS_STATE_CB_FLAG},
		{call, 0, 0, helperSetFlags},
		{store, stack, -8, 0},
		{loadWide, 1 | unix.BPF_PSEUDO_MAP_FD<<4, 0, ring},
		{}, // its second half
		{opMove, 2 | stack<<4, 0, 0},
		{add, 2, 0, -8},
		{opMoveImm, 3, 0, 8},
		{opMoveImm, 4, 0, 0},
		{call, 0, 0, helperRingOutput},
		{opMoveImm, regResult, 0, 1},
		{opExit, 0, 0, 0},
	}
}
