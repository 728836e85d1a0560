// Command husk-vmm is one microVM.
//
//	husk-vmm serve      for a client that holds the other ends of descriptors 3 and 4 (package vmm/client)
//	husk-vmm run …      a VM from the command line, for developing; see husk-vmm run -h
package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/huskvm/husk/vmm/control"
	"github.com/huskvm/husk/vmm/marks"
	"github.com/huskvm/husk/vmm/quota"
)

var version = "unknown" // set by the linker

// logSize is all that is logged in the VM's life: guests can provoke any number of lines, and the log may be in memory.
const logSize = 1 << 20

func main() {
	// What is allocated is little and short-lived: stay small rather than fast at it. There is no limit, as the inodes that
	// the guest remembers may be many, and the collector would do nothing else once they are beyond it.
	debug.SetGCPercent(50)
	log := slog.New(slog.NewTextHandler(quota.NewWriter(os.Stderr, logSize, "the log is full: nothing more is logged\n"), nil))
	slog.SetDefault(log) // the devices'
	list := &marks.List{}
	list.Add("vmm started")
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		manyFiles(log)
		err = control.Serve(os.NewFile(3, "control"), os.NewFile(4, "donor"), list, log)
	case len(os.Args) >= 2 && os.Args[1] == "run":
		err = run(os.Args[2:], list, log)
	case len(os.Args) == 2 && os.Args[1] == "version":
		fmt.Println("husk-vmm", version)
	default:
		fmt.Fprintln(os.Stderr, "usage: husk-vmm serve | run [flags] | version")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "husk-vmm:", err)
		os.Exit(1)
	}
}
