package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/huskvm/husk/deploy"
)

// engine is one that husk can be configured in. Its name is its systemd unit's as well.
type engine struct {
	name string
	// plan is what the engine's files should be, with husk or without, as far as that is not what they are.
	plan func(n *Node, with bool) ([]edit, error)
}

var engines = []engine{
	{"containerd", planContainerd},
	{"crio", planCRIO},
}

// edit replaces a file of the host; nil is no file.
type edit struct {
	path     string // here
	old, new []byte
}

func (e edit) write(data []byte) error {
	if data != nil {
		return replace(e.path, data)
	}
	if err := os.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove configuration: %w", err)
	}
	return nil
}

// read is a file's content, nil when there is none.
func read(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && data == nil {
		data = []byte{}
	}
	return data, err
}

var errNoEngine = errors.New("neither containerd nor CRI-O is on this node: install one, or name it with -engine")

// engines are those to configure.
func (n *Node) engines() (list []engine, err error) {
	for _, name := range n.Engine {
		i := slices.IndexFunc(engines, func(e engine) bool { return e.name == name })
		if i < 0 {
			return nil, fmt.Errorf("engine %q is not known: it is containerd or crio", name)
		}
		list = append(list, engines[i])
	}
	if len(n.Engine) > 0 {
		return list, nil
	}
	for _, e := range engines {
		for _, sign := range []string{"etc/" + e.name, "usr/bin/" + e.name, "usr/local/bin/" + e.name} {
			if _, err := os.Stat(n.path(sign)); err == nil {
				list = append(list, e)
				break
			}
		}
	}
	if len(list) == 0 {
		return nil, errNoEngine
	}
	return list, nil
}

// configure makes the engine know husk, or not, and restarts it if that has changed anything; also if a call before this
// one ended in between.
func (n *Node) configure(e engine, with bool) error {
	edits, err := e.plan(n, with)
	if err != nil {
		return fmt.Errorf("configure %s: %w", e.name, err)
	}
	pending := filepath.Join(n.lib(), "restart-"+e.name)
	if _, err := os.Stat(pending); len(edits) == 0 && err != nil {
		n.say("%s is configured as it should be", e.name)
		return nil
	}
	if err := os.WriteFile(pending, nil, 0o644); err != nil {
		return fmt.Errorf("remember to restart %s: %w", e.name, err)
	}
	for _, edit := range edits {
		if err := edit.write(edit.new); err != nil {
			return err
		}
		n.say("wrote %s", edit.path)
	}
	if err := n.restart(e.name); err != nil {
		// An engine without husk is better than none.
		for _, edit := range edits {
			err = errors.Join(err, edit.write(edit.old))
		}
		if len(edits) > 0 {
			// It is down now, so whether it is active is no question.
			err = fmt.Errorf("%w; its old configuration is back", errors.Join(err, n.systemctl("restart", e.name)))
		}
		return err
	}
	return os.Remove(pending)
}

// dropIn is one of deploy's files, with the shim's path when it is not where engines look by themselves.
func (n *Node) dropIn(name string) ([]byte, error) {
	data, err := deploy.Files.ReadFile(name)
	if err != nil {
		return nil, err
	}
	const usual = "/usr/local"
	if n.prefix() == usual {
		return data, nil
	}
	data = bytes.ReplaceAll(data, []byte(usual+"/bin/"+shim), []byte(filepath.Join(n.prefix(), "bin", shim)))
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		out.WriteString(line)
		for _, quote := range []string{"'", `"`} {
			if strings.TrimSpace(line) == "runtime_type = "+quote+"io.containerd.husk.v2"+quote {
				fmt.Fprintf(&out, "  runtime_path = %q\n", filepath.Join(n.prefix(), "bin", shim))
			}
		}
	}
	return []byte(out.String()), nil
}

// planCRIO has a file of its own.
func planCRIO(n *Node, with bool) ([]edit, error) {
	var want []byte
	if with {
		var err error
		if want, err = n.dropIn("crio/husk.conf"); err != nil {
			return nil, err
		}
	}
	return n.change("/etc/crio/crio.conf.d/50-husk.conf", want)
}

// change is the edit that makes a file of the host what is wanted; none if it is.
func (n *Node) change(path string, want []byte) ([]edit, error) {
	old, err := read(n.path(path))
	if err != nil {
		return nil, err
	}
	if bytes.Equal(old, want) && (old == nil) == (want == nil) {
		return nil, nil
	}
	return []edit{{n.path(path), old, want}}, nil
}
