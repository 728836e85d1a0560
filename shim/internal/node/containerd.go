package node

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Where containerd's configuration is, on the host.
const (
	containerdConfig = "/etc/containerd/config.toml"
	containerdDropIn = "/etc/containerd/conf.d/husk.toml"
)

// What encloses husk's part of a file that is not its own.
const (
	begin = "# begin of husk, by `husk install`; `husk remove` takes this out again\n"
	end   = "# end of husk\n"
)

// configuration is as much as matters here of containerd's.
type configuration struct {
	Version int      `toml:"version"`
	Imports []string `toml:"imports"`
	Plugins map[string]struct {
		Containerd struct {
			Runtimes map[string]any `toml:"runtimes"`
		} `toml:"containerd"`
	} `toml:"plugins"`
}

// The CRI plugin's names, by the version of the configuration.
var criPlugins = map[int]string{2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}

// planContainerd puts husk into a file of its own where that is imported, as it can be since containerd 2, and else
// into containerd's own file: an older one takes an import for the whole of its CRI plugin's configuration.
func planContainerd(n *Node, with bool) ([]edit, error) {
	old, err := read(n.path(containerdConfig))
	if err != nil {
		return nil, err
	}
	rest, err := withoutBlock(old)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", containerdConfig, err)
	}
	var dropIn, main []byte = nil, rest
	if with {
		if dropIn, main, err = n.containerdFiles(rest); err != nil {
			return nil, err
		}
	} else if len(bytes.TrimSpace(rest)) == 0 && len(old) > 0 {
		main = nil // it was husk's alone
	}
	edits, err := n.change(containerdDropIn, dropIn)
	if err != nil || bytes.Equal(old, main) && (old == nil) == (main == nil) {
		return edits, err
	}
	return append(edits, edit{n.path(containerdConfig), old, main}), nil
}

// containerdFiles are a drop-in and containerd's own file; the one of them that does not have husk is as it was.
func (n *Node) containerdFiles(main []byte) (dropIn, file []byte, err error) {
	var c configuration
	if err := toml.Unmarshal(main, &c); err != nil {
		return nil, nil, fmt.Errorf("parse %s: %w", containerdConfig, err)
	}
	if len(bytes.TrimSpace(main)) == 0 {
		// Every containerd since 1.6 reads version 2.
		c.Version, main = 2, []byte{}
	}
	c.Version = cmp.Or(c.Version, 1) // containerd's own reading
	plugin, known := criPlugins[c.Version]
	if !known {
		return nil, nil, fmt.Errorf("%s has version %d, known are 2 and 3: `containerd config migrate` writes a newer one", containerdConfig, c.Version)
	}
	runtimes := c.Plugins[plugin].Containerd.Runtimes
	if _, there := runtimes["husk"]; there {
		n.say("%s has husk by itself", containerdConfig)
		return nil, main, nil
	}
	if c.Version == 3 {
		own, err := n.dropIn("containerd/husk-2.x.toml")
		if err != nil || n.imports(c.Imports) {
			return own, main, err
		}
		return nil, withBlock(main, tables(own)), nil
	}
	own, err := n.dropIn("containerd/husk-1.x.toml")
	if err != nil {
		return nil, nil, err
	}
	own = tables(own)
	if _, there := runtimes["runc"]; !there {
		own = append(own, "\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n"...)
	}
	if len(main) == 0 {
		own = append([]byte("version = 2\n\n"), own...)
	}
	file = withBlock(main, own)
	if err := toml.Unmarshal(file, new(map[string]any)); err != nil {
		return nil, nil, fmt.Errorf("husk's part cannot be appended to %s: %w", containerdConfig, err)
	}
	return nil, file, nil
}

// tables is a drop-in without what it says to who installs it by hand, and without the version, which a file has once.
func tables(dropIn []byte) []byte {
	if i := bytes.Index(dropIn, []byte("# RuntimeClass")); i > 0 {
		return dropIn[i:]
	}
	return dropIn
}

// imports says whether one of containerd's patterns is met by husk's file. They are relative to containerd's file.
func (n *Node) imports(patterns []string) bool {
	for _, p := range patterns {
		if !filepath.IsAbs(p) {
			p = filepath.Join(filepath.Dir(containerdConfig), p)
		}
		if ok, _ := filepath.Match(p, containerdDropIn); ok {
			return true
		}
	}
	return false
}

func withBlock(file, block []byte) []byte {
	separator := ""
	if len(file) > 0 {
		separator = "\n"
		if !bytes.HasSuffix(file, []byte("\n")) {
			separator = "\n\n"
		}
	}
	return fmt.Appendf(nil, "%s%s%s%s%s", file, separator, begin, block, end)
}

// withoutBlock undoes withBlock, wherever the block has got to.
func withoutBlock(file []byte) ([]byte, error) {
	before, after, found := strings.Cut(string(file), begin)
	if !found {
		return file, nil
	}
	_, after, found = strings.Cut(after, end)
	if !found {
		return nil, errors.New("the end of husk's part is missing: take the part out by hand")
	}
	return []byte(strings.TrimSuffix(before, "\n") + after), nil
}
