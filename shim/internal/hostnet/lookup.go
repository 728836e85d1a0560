package hostnet

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/bpf"
)

// maxPassed is how many addresses a look-up leaves alone.
const maxPassed = 16

// makePassed makes the table of the addresses that a look-up leaves alone.
func makePassed() (int, error) {
	fd, err := bpf.NewMap(unix.BPF_MAP_TYPE_HASH, 4, 4, maxPassed)
	if err != nil {
		return -1, fmt.Errorf("make a map of addresses: %w", err)
	}
	return fd, nil
}

func addPassed(table int, address [4]byte) error {
	return bpf.Put(table, address, uint32(1))
}

// attachLookup makes the kernel give the connections of a network namespace to a listening socket, before it looks for
// another (BPF_PROG_TYPE_SK_LOOKUP), unless they are to an address of the table. That ends when the descriptor of the link
// is closed.
func attachLookup(socket, passed, ns int) (link int, err error) {
	table, err := bpf.NewMap(unix.BPF_MAP_TYPE_SOCKMAP, 4, 8, 1)
	if err != nil {
		return -1, fmt.Errorf("make a map of sockets: %w", err)
	}
	defer unix.Close(table)
	if err := bpf.Put(table, uint32(0), uint64(socket)); err != nil {
		return -1, fmt.Errorf("put the socket into a map: %w", err)
	}
	program, err := bpf.Check(lookup(table, passed), unix.BPF_PROG_TYPE_SK_LOOKUP, unix.BPF_SK_LOOKUP)
	if err != nil {
		return -1, fmt.Errorf("load a program for socket look-up: %w", err)
	}
	defer unix.Close(program)
	link, err = bpf.Link(program, ns, unix.BPF_SK_LOOKUP)
	if err != nil {
		return -1, fmt.Errorf("attach a program for socket look-up: %w", err)
	}
	return link, nil
}

// Helpers by their numbers.
const (
	helperLookup  = 1
	helperRelease = 86
	helperAssign  = 124
)

const pass = 1 // SK_PASS

// localIP4 is where struct bpf_sk_lookup has the address that was dialled; zeros for one of IPv6.
const localIP4 = 40

// lookup is: the socket of the map, if it is for the packet's protocol and family, is what is looked for; but for the
// addresses that are passed.
func lookup(table, passed int) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.Op(bpf.Move, 6|1<<4, 0, 0), // r6 = context
		bpf.Op(bpf.Load, 1|6<<4, localIP4, 0),
		bpf.Op(bpf.Store, 10|1<<4, -4, 0), // as the key
		bpf.LoadMap(1, passed),
		{},
		bpf.Op(bpf.Move, 2|10<<4, 0, 0),
		bpf.Op(bpf.Add, 2, 0, -4),
		bpf.Op(bpf.Call, 0, 0, helperLookup),
		bpf.Op(bpf.Unless, 0, 14, 0),    // it is one: to the end
		bpf.Op(bpf.StoreImm, 10, -4, 0), // key 0, on the stack
		bpf.LoadMap(1, table),
		{},
		bpf.Op(bpf.Move, 2|10<<4, 0, 0),
		bpf.Op(bpf.Add, 2, 0, -4),
		bpf.Op(bpf.Call, 0, 0, helperLookup),
		bpf.Op(bpf.If, 0, 7, 0),        // none: to the end
		bpf.Op(bpf.Move, 7|0<<4, 0, 0), // r7 = socket
		bpf.Op(bpf.Move, 1|6<<4, 0, 0),
		bpf.Op(bpf.Move, 2|7<<4, 0, 0),
		bpf.Op(bpf.MoveImm, 3, 0, 0),
		bpf.Op(bpf.Call, 0, 0, helperAssign), // refuses what it is not for
		bpf.Op(bpf.Move, 1|7<<4, 0, 0),
		bpf.Op(bpf.Call, 0, 0, helperRelease),
		bpf.Op(bpf.MoveImm, 0, 0, pass),
		bpf.Op(bpf.Exit, 0, 0, 0),
	}
}
