package rundir

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// stateVersion is raised when an older shim could misread what a newer one wrote.
const stateVersion = 1

// State is what others may know of a sandbox: `delete`, and the command line tool.
type State struct {
	Version   int       `json:"version"`
	Namespace string    `json:"namespace"`
	ID        string    `json:"id"`
	Shim      Process   `json:"shim"`
	VMM       Process   `json:"vmm,omitzero"`
	VCPUs     uint32    `json:"vcpus,omitempty"`
	Memory    uint64    `json:"memory,omitempty"`
	Cgroup    string    `json:"cgroup,omitempty"` // as in linux.cgroupsPath of the sandbox's spec
	NetNS     string    `json:"netns,omitempty"`  // path of the network namespace that the VM is connected with
	Started   time.Time `json:"started,omitzero"`
	// Unowned is a sandbox whose engine never calls `delete`: that of CRI-O.
	Unowned    bool        `json:"unowned,omitempty"`
	Containers []Container `json:"containers,omitempty"`
}

// Container is one container of a sandbox.
type Container struct {
	ID     string `json:"id"`
	Bundle string `json:"bundle"`
	Exit   *Exit  `json:"exit,omitempty"` // once it has ended
}

// Exit is how a container ended.
type Exit struct {
	Status uint32    `json:"status"`
	At     time.Time `json:"at"`
}

// Save replaces the state in one step.
func (d Dir) Save(s State) error {
	s.Version = stateVersion
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	return d.Replace(stateFile, data)
}

// Replace writes a file of the directory so that a reader sees the old content or the new.
func (d Dir) Replace(name string, data []byte) error {
	path := d.Join(name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Load reads the state.
func (d Dir) Load() (State, error) {
	var s State
	data, err := os.ReadFile(d.Join(stateFile))
	if err != nil {
		return s, fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read state %s: %w", d.Join(stateFile), err)
	}
	if s.Version > stateVersion {
		return s, fmt.Errorf("read state %s: written by a newer husk (version %d, known are up to %d)",
			filepath.Base(string(d)), s.Version, stateVersion)
	}
	return s, nil
}
