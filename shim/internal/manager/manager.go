// Package manager is the shim's binary: the short-lived `start`, `delete` and `info` that a container engine
// calls, and the daemon that `start` leaves behind.
//
// Both bootstrap protocols are served. containerd ≥ 2.3 writes BootstrapParams to stdin and reads
// BootstrapResult; before that, containerd writes the runtime's options, CRI-O nothing, and both read an
// address. Those older ones take stderr for a part of the address, so a start that succeeds is silent there.
package manager

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/rundir"
)

// Name is the runtime's, as containerd spells it.
const Name = "io.containerd.husk.v2"

// Shim is one call of the binary.
type Shim struct {
	Version string
	Root    string // of the sandboxes' directories
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer

	namespace string
	id        string
	address   string // of the engine's gRPC API
	bundle    string
	debug     bool
	events    string // address of the engine's ttrpc API; empty for none
}

// New is a call by the environment of this process.
func New(version string) *Shim {
	return &Shim{Version: version, Root: rundir.Root, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
}

// Run does what args ask for and returns the exit status.
func (s *Shim) Run(args []string) int {
	err := s.run(args)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 2
	}
	fmt.Fprintf(s.Stderr, "%s: %v\n", Name, err)
	return 1
}

func (s *Shim) run(args []string) error {
	flags := flag.NewFlagSet("containerd-shim-husk-v2", flag.ContinueOnError)
	flags.SetOutput(s.Stderr)
	flags.StringVar(&s.namespace, "namespace", "", "namespace of the container")
	flags.StringVar(&s.id, "id", "", "id of the container")
	flags.StringVar(&s.address, "address", "", "address of the engine's gRPC API")
	flags.StringVar(&s.bundle, "bundle", "", "path of the bundle; empty is the working directory")
	flags.BoolVar(&s.debug, "debug", false, "log at debug level")
	version := flags.Bool("v", false, "print the version")
	flags.BoolVar(version, "version", false, "print the version")
	info := flags.Bool("info", false, "print what the runtime is, as RuntimeInfo")
	for _, ignored := range []string{"publish-binary", "socket", "debug-socket"} {
		flags.String(ignored, "", "accepted and ignored")
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *version:
		_, err := fmt.Fprintf(s.Stdout, "containerd-shim-husk-v2 %s\n", s.Version)
		return err
	case *info:
		return s.info()
	}
	if s.id == "" {
		return errors.New("-id is missing: this binary is called by containerd or CRI-O")
	}
	if s.namespace == "" {
		s.namespace = "default" // CRI-O has none
	}
	s.events = os.Getenv("TTRPC_ADDRESS")
	switch action := flags.Arg(0); action {
	case "start":
		return s.start()
	case "delete":
		return s.delete()
	case serveAction:
		return s.serve()
	default:
		return fmt.Errorf("unknown action %q: it is start or delete", action)
	}
}

// featuresType is what containerd registers specs-go/features.Features as.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

func (s *Shim) info() error {
	features, err := json.Marshal(bundle.Features())
	if err != nil {
		return fmt.Errorf("encode features: %w", err)
	}
	return s.writeMessage(&types.RuntimeInfo{
		Name:     Name,
		Version:  &types.RuntimeVersion{Version: s.Version},
		Features: &anypb.Any{TypeUrl: featuresType, Value: features},
	})
}

func (s *Shim) writeMessage(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if _, err := s.Stdout.Write(data); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// bundleDir is where config.json is.
func (s *Shim) bundleDir() (string, error) {
	if s.bundle != "" {
		return s.bundle, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the bundle: %w", err)
	}
	return dir, nil
}

func (s *Shim) dir(sandbox string) rundir.Dir {
	return rundir.Of(s.Root, s.address, s.namespace, sandbox)
}
