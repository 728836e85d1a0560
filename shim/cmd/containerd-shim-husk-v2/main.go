// Command containerd-shim-husk-v2 is the runtime io.containerd.husk.v2: containerd and CRI-O start one for each
// sandbox, and it runs the sandbox's containers in a KVM microVM.
package main

import (
	"os"

	"github.com/huskvm/husk/shim/internal/manager"
)

// version is set by the build.
var version = "devel"

func main() { os.Exit(manager.New(version).Run(os.Args[1:])) }
