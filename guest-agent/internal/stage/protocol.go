// Package stage is the process between the agent's fork and the container's program.
//
// The agent starts its own executable again with the first argument Name, in the namespaces and the cgroup that
// are asked for; Main then turns that process into what the specification describes, tells the agent that it is
// ready, waits to be let go and executes the program. Everything a container must not inherit is gone by then.
//
// Main runs on one locked thread: credentials, namespaces and filters of Linux belong to threads, and execve
// keeps those of the thread that calls it. No other goroutine may touch the file system.
package stage

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Name is the first argument of a stage process.
const Name = "husk-stage"

// Descriptors a stage process is started with, beside its standard ones.
const (
	// ConfigFD is a file with a Config in JSON.
	ConfigFD = 3
	// ControlFD is a SOCK_SEQPACKET socket. The stage sends one Message when it is prepared; the agent
	// answers with one packet, of any content, that lets it go; then the stage closes the socket by its
	// execve, or sends a second Message with what went wrong.
	ControlFD = 4
	// FirstFD is the first of those that Config speaks of.
	FirstFD = 5
)

// Config describes the process to become.
type Config struct {
	// Spec is set for a container's init, and makes the container.
	Spec *specs.Spec `json:"spec,omitempty"`
	// Process is what to execute.
	Process *specs.Process `json:"process"`
	// Seccomp and Personality are the container's, for every process of it.
	Seccomp     *specs.LinuxSeccomp     `json:"seccomp,omitempty"`
	Personality *specs.LinuxPersonality `json:"personality,omitempty"`
	// ID is the container's, for its hooks.
	ID string `json:"id,omitempty"`
	// Trees are the descriptors of mounts that the agent has opened, by their index in Spec.Mounts; RootTree, if
	// not 0, is the root's.
	Trees    map[int]int `json:"trees,omitempty"`
	RootTree int         `json:"rootTree,omitempty"`
	// JoinFD, of a process that joins a container, is a pidfd of the container's init, and JoinFlags say which of
	// its namespaces are left to be joined.
	JoinFD    int `json:"joinFD,omitempty"`
	JoinFlags int `json:"joinFlags,omitempty"`
	// Cgroup is the directory of the container's cgroup.
	Cgroup string `json:"cgroup,omitempty"`
	// Terminal asks for a pseudo terminal, whose master comes with the first Message.
	Terminal bool   `json:"terminal,omitempty"`
	Width    uint16 `json:"width,omitempty"`
	Height   uint16 `json:"height,omitempty"`
	// MissingIsError makes an executable that can't be run an error of the preparation or the start, where it
	// else is the process's own exit with 127 or 126.
	MissingIsError bool `json:"missingIsError,omitempty"`
}

// Message is what a stage process tells the agent.
type Message struct {
	Error string `json:"error,omitempty"` // empty: ready
	Errno int    `json:"errno,omitempty"` // of the system call that is the reason, if there is one
}
