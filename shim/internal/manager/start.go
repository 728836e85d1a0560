package manager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/vmm/marks"
)

const (
	// The versions of the shim API that the two bootstrap protocols lead to.
	legacyVersion  = 2
	currentVersion = 3

	// departTime is how long a start waits for a shim of the same id that is on its way out.
	departTime = 5 * time.Second

	// startMark hands the moment of the start over to the daemon's timeline.
	startMark = "HUSK_START_MARK"
)

// start leaves a daemon behind and answers with its address; for a further container of a pod, with that of the
// pod's.
func (s *Shim) start() error {
	begun := marks.Now()
	input, err := io.ReadAll(io.LimitReader(s.Stdin, 16<<20))
	if err != nil {
		return fmt.Errorf("read stdin: %w", err)
	}
	params := parseParams(input, s.id, s.namespace)
	if params != nil {
		s.debug = s.debug || params.LogLevel <= bootapi.LogLevel_LOG_LEVEL_DEBUG
		if params.ContainerdTtrpcAddress != "" {
			s.events = params.ContainerdTtrpcAddress
		}
		if s.address == "" {
			s.address = params.ContainerdGrpcAddress
		}
	}
	options := runtimeOptions(input, params)
	annotations, err := s.annotations()
	if err != nil {
		return err
	}
	identity := bundle.Identify(s.id, annotations)
	var result *bootapi.BootstrapResult
	if identity.Kind == bundle.Member {
		result, err = s.join(identity.Sandbox)
	} else {
		version := int32(legacyVersion)
		if params != nil {
			version = currentVersion
		}
		result, err = s.found(version, options, begun)
	}
	if err != nil {
		return err
	}
	if err = s.writeAddress(result.Address); err == nil {
		err = s.answer(params != nil, result)
	}
	if err != nil && identity.Kind != bundle.Member { // nobody will call the shim that was just started
		_, evictErr := evict(s.dir(s.id), traces{})
		err = errors.Join(err, evictErr)
	}
	return err
}

// parseParams reads the new protocol's parameters; nil when the input is the old protocol's.
func parseParams(input []byte, id, namespace string) *bootapi.BootstrapParams {
	params := new(bootapi.BootstrapParams)
	// Runtime options can be read as parameters by chance, but do not then agree with the flags.
	if len(input) == 0 || proto.Unmarshal(input, params) != nil || params.InstanceID != id || params.Namespace != namespace {
		return nil
	}
	return params
}

// runtimeOptions are the runtime's, encoded as an Any: all of the old protocol's input, an extension of the new one's
// parameters.
func runtimeOptions(input []byte, params *bootapi.BootstrapParams) []byte {
	if params == nil {
		return input
	}
	for _, e := range params.Extensions {
		if data, err := proto.Marshal(e.GetValue()); err == nil {
			return data
		}
	}
	return nil
}

// annotations reads no more of the specification than start needs. A sandbox that the Sandbox API is to make has none;
// CRI-O, which says no address, does not know that API.
func (s *Shim) annotations() (map[string]string, error) {
	dir, err := s.bundleDir()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if errors.Is(err, os.ErrNotExist) && s.address != "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the bundle's specification: %w", err)
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("parse the bundle's specification: %w", err)
	}
	return spec.Annotations, nil
}

// join finds the shim of a running sandbox, and answers with what that one's own start did.
func (s *Shim) join(sandbox string) (*bootapi.BootstrapResult, error) {
	dir := s.dir(sandbox)
	data, err := os.ReadFile(dir.Join(rundir.Bootstrap))
	if err == nil && !dir.Served() {
		err = errors.New("its shim has ended")
	}
	if err != nil {
		return nil, fmt.Errorf("join sandbox %s, which is not running: %w", sandbox, err)
	}
	result := new(bootapi.BootstrapResult)
	if err := json.Unmarshal(data, result); err != nil {
		return nil, fmt.Errorf("parse %s: %w", dir.Join(rundir.Bootstrap), err)
	}
	return result, nil
}

// found starts the daemon of a new sandbox.
func (s *Shim) found(version int32, options []byte, begun uint64) (*bootapi.BootstrapResult, error) {
	dir := s.dir(s.id)
	lock, err := s.claim(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if len(options) > 0 {
		if err := dir.Replace(rundir.Options, options); err != nil {
			return nil, errors.Join(err, dir.Remove())
		}
	}
	socket := dir.Join(rundir.Socket)
	result := &bootapi.BootstrapResult{Version: version, Address: "unix://" + socket, Protocol: "ttrpc"}
	if err := s.launch(dir, lock, socket, result, begun); err != nil {
		return nil, errors.Join(err, dir.Remove())
	}
	return result, nil
}

func (s *Shim) launch(dir rundir.Dir, lock *os.File, socket string, result *bootapi.BootstrapResult, begun uint64) error {
	data, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	if err := dir.Replace(rundir.Bootstrap, data); err != nil {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen for the engine: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	if err := os.Chmod(socket, 0o600); err != nil {
		return fmt.Errorf("protect the shim's socket: %w", err)
	}
	file, err := listener.File()
	if err != nil {
		return fmt.Errorf("hand the shim's socket over: %w", err)
	}
	defer file.Close()
	return s.spawn(file, lock, begun)
}

// claim makes the sandbox's directory and locks it. What a killed shim left there is cleaned up first; one that
// is on its way out is waited for.
func (s *Shim) claim(dir rundir.Dir) (*os.File, error) {
	deadline := time.Now().Add(departTime)
	for {
		lock, err := s.tryClaim(dir)
		if !errors.Is(err, rundir.ErrLocked) {
			return lock, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("sandbox %s in namespace %s: %w, and %w", s.id, s.namespace, err, errdefs.ErrAlreadyExists)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *Shim) tryClaim(dir rundir.Dir) (lock *os.File, err error) {
	stale := false
	if err := s.sweep(); err != nil {
		return nil, err
	}
	err = rundir.Exclusive(s.Root, func() error {
		err := os.Mkdir(string(dir), 0o700)
		stale = errors.Is(err, os.ErrExist)
		if err != nil && !stale {
			return fmt.Errorf("create the sandbox's directory: %w", err)
		}
		lock, err = dir.Lock()
		return err
	})
	if err != nil || !stale {
		return lock, err
	}
	// Nobody serves it, so everything in it is a dead shim's.
	_, err = cleanUp(dir, traces{})
	lock.Close()
	if err != nil {
		return nil, err
	}
	return nil, rundir.ErrLocked // once more, on a clean place
}

// writeAddress leaves the address in the bundle, where containerd 1.6 and CRI-O look after their own restart.
func (s *Shim) writeAddress(address string) error {
	dir, err := s.bundleDir()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "address")
	if err := os.WriteFile(path+".new", []byte(address), 0o600); err != nil {
		return fmt.Errorf("write the shim's address: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the shim's address: %w", err)
	}
	return nil
}

// answer writes the result. The old protocol's bare address is understood by every version of it, and means
// version 2; a sandbox's shim of another version has to say so in JSON, which its engine knows.
func (s *Shim) answer(bootstrap bool, result *bootapi.BootstrapResult) error {
	if bootstrap {
		return s.writeMessage(result)
	}
	text := []byte(result.Address)
	if result.Version != legacyVersion {
		var err error
		text, err = json.Marshal(map[string]any{
			"version": result.Version, "address": result.Address, "protocol": result.Protocol,
		})
		if err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
	}
	if _, err := s.Stdout.Write(text); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}
