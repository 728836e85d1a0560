// Command husk looks at husk on this host: whether VMs can run, which sandboxes there are, what a guest's
// console says, and where the time of a start went. It also installs husk on the nodes of a cluster.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/huskvm/husk/shim/internal/rundir"
)

// version is set by the build.
var version = "devel"

// host is where the commands look, and write.
type host struct {
	root string // of the sandboxes' directories
	out  io.Writer
}

var commands = []struct {
	name, args, help string
	run              func(host, []string) error
}{
	{"check", "[CONFIG]", "say whether this host can run VMs, and what is missing", check},
	{"list", "", "list the sandboxes", list},
	{"console", "ID", "print the end of a guest's console", console},
	{"metrics", "", "print what each sandbox uses of the host, for Prometheus", metrics},
	{"timeline", "ID|FILE", "show where the time of a start went", timeline},
	{"install", "[-root DIR] …", "put husk on this node, and into its engine's configuration", install},
	{"remove", "[-root DIR] [-wait] …", "undo install, unless pods of husk run", remove},
	{"version", "", "print the version", func(h host, _ []string) error {
		_, err := fmt.Fprintln(h.out, "husk", version)
		return err
	}},
}

func main() {
	flag.Usage = usage
	flag.Parse()
	args := flag.Args()
	if len(args) == 0 {
		usage()
		os.Exit(2)
	}
	for _, c := range commands {
		if c.name == args[0] {
			if err := c.run(host{rundir.Root, os.Stdout}, args[1:]); err != nil {
				fmt.Fprintf(os.Stderr, "husk %s: %v\n", c.name, err)
				os.Exit(1)
			}
			return
		}
	}
	usage()
	os.Exit(2)
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: husk COMMAND")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-29s %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
	}
}

// find is the one sandbox whose id, or that of a container in it, begins with prefix.
func (h host) find(prefix string) (rundir.Dir, rundir.State, error) {
	dirs, err := rundir.All(h.root)
	if err != nil {
		return "", rundir.State{}, err
	}
	var found []rundir.Dir
	var state rundir.State
	for _, dir := range dirs {
		s, err := dir.Load()
		if err != nil {
			continue // it is just coming or going
		}
		matches := strings.HasPrefix(s.ID, prefix) ||
			slices.ContainsFunc(s.Containers, func(c rundir.Container) bool { return strings.HasPrefix(c.ID, prefix) })
		if s.ID == prefix {
			return dir, s, nil
		}
		if matches {
			found, state = append(found, dir), s
		}
	}
	switch len(found) {
	case 0:
		return "", state, fmt.Errorf("no sandbox %s", prefix)
	case 1:
		return found[0], state, nil
	}
	return "", state, errors.New("more than one sandbox begins with " + prefix)
}
