package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
)

// maxMessage bounds a line from QEMU. The longest that is asked for, query-cpus-fast, has some 250 bytes a vCPU.
const maxMessage = 256 << 10

// message is anything that QEMU says (QEMU Machine Protocol Specification §2): exactly one of greeting, return, error
// and event.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *qmpError       `json:"error"`
	ID       json.RawMessage `json:"id"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
}

// qmpError is QEMU's refusal of a command.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return fmt.Sprintf("QEMU: %.200s", e.Desc) }

// command is what QEMU is told. No command that is used has arguments.
type command struct {
	Execute string `json:"execute"`
	ID      uint64 `json:"id"`
}

// decode reads one line.
func decode(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("QMP: %w", err)
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Return != nil, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, errors.New("QMP: a message that is not one of greeting, return, error and event")
	}
	return m, nil
}

// id is the number of the command that a message answers; false when it answers none.
func (m message) id() (n uint64, ok bool) {
	return n, m.ID != nil && json.Unmarshal(m.ID, &n) == nil
}
