package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/huskvm/husk/test/host/internal/guest"
)

// Exit statuses of the program itself; any other is the command's.
const (
	statusUsage   = 2
	statusTimeout = 124
	statusHost    = 125
	statusSignal  = 128
)

func main() {
	// The initramfs holds this same program.
	switch {
	case os.Getpid() == 1 && os.Args[0] == "/init":
		guest.Boot()
	case os.Args[0] == guest.ServiceProgram:
		guest.Serve()
	}

	opts, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "host: %v\n", err)
		os.Exit(statusUsage)
	}
	status, err := run(opts)
	if err != nil {
		fmt.Fprintf(os.Stderr, "host: %v\n", err)
	}
	os.Exit(status)
}
