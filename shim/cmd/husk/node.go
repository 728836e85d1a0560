package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/shim/internal/node"
)

// again is how often a removal that waits looks.
const again = 2 * time.Second

// nodeFlags are what install and remove have in common.
func nodeFlags(h host, name string) (*flag.FlagSet, *node.Node, *string, *bool) {
	n := &node.Node{Out: h.out}
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.StringVar(&n.Root, "root", "", "the host's root directory, when it is not this process's")
	flags.StringVar(&n.Prefix, "prefix", "/usr/local", "where husk goes on the host")
	engines := flags.String("engine", "", "engines to configure, separated by commas: containerd, crio; empty is what is found")
	stay := flags.Bool("stay", false, "then wait for a signal, as the container of a DaemonSet has to")
	return flags, n, engines, stay
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func install(h host, args []string) error {
	flags, n, engines, stay := nodeFlags(h, "install")
	from := flags.String("from", "", "where husk's programs are; empty is beside this one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *from == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find husk's own binary: %w", err)
		}
		*from = filepath.Dir(self)
	}
	n.Engine = split(*engines)
	if err := n.Install(*from); err != nil {
		return err
	}
	if *stay {
		<-signals()
	}
	return nil
}

func remove(h host, args []string) error {
	flags, n, engines, stay := nodeFlags(h, "remove")
	wait := flags.Bool("wait", false, "wait until no pod or container of husk runs, instead of failing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	n.Engine = split(*engines)
	stop := signals()
	act := n.Remove
	if *wait {
		act = func() error { return n.RemoveWhenIdle(again, stop) }
	}
	if err := act(); err != nil {
		return err
	}
	if *stay {
		<-stop
	}
	return nil
}

func signals() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT)
	return c
}
