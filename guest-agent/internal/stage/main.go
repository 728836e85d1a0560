package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"

	"github.com/huskvm/husk/guest-agent/internal/seccomp"
	"golang.org/x/sys/unix"
)

// Main is the whole life of a stage process. It returns the status to exit with when no program was executed.
func Main() int {
	runtime.LockOSThread()
	// Until the execve this process is the agent's: what runs in the container must not look into it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fail(fmt.Errorf("hide from the container: %w", err))
	}
	if err := unix.CloseRange(ConfigFD, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fail(fmt.Errorf("keep descriptors from the container: %w", err))
	}
	config, err := readConfig()
	if err != nil {
		return fail(err)
	}
	p := &program{config: config, process: config.Process, master: -1}
	if err := p.prepare(); err != nil {
		return fail(err)
	}
	if err := send(Message{}, p.master); err != nil {
		return 1
	}
	if !awaitStart() {
		return 1
	}
	return p.run()
}

func readConfig() (*Config, error) {
	f := os.NewFile(ConfigFD, "config")
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read the stage's configuration: %w", err)
	}
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("parse the stage's configuration: %w", err)
	}
	return &c, nil
}

func fail(err error) int {
	m := Message{Error: err.Error()}
	if errno := unix.Errno(0); errors.As(err, &errno) {
		m.Errno = int(errno)
	}
	// Without the agent there is nobody left to tell.
	_ = send(m, -1)
	return 1
}

// send tells the agent, handing it the terminal's master if there is one.
func send(m Message, master int) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var rights []byte
	if master >= 0 {
		rights = unix.UnixRights(master)
	}
	for {
		err = unix.Sendmsg(ControlFD, text, rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func awaitStart() bool {
	buf := make([]byte, 1)
	for {
		n, err := unix.Read(ControlFD, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n == 1
	}
}

// program is the process on its way from the agent's executable to the container's.
type program struct {
	config  *Config
	process *processSpec
	master  int // of the terminal; -1 without
	path    string
	missing *ExecutableError // why path can't be executed
	filter  func() error
}

func (p *program) prepare() error {
	if len(p.process.Args) == 0 {
		return errors.New("process.args must not be empty")
	}
	var filter *seccomp.Filter
	var err error
	if p.config.Seccomp != nil {
		if filter, err = seccomp.Compile(p.config.Seccomp); err != nil {
			return err
		}
	}
	unix.Umask(0)
	if a := p.process.ExecCPUAffinity; a != nil && p.config.Spec == nil {
		if err := setAffinity("initial", a.Initial); err != nil {
			return err
		}
	}
	if p.config.Spec != nil {
		err = p.makeContainer()
	} else {
		err = p.joinContainer()
	}
	if err != nil {
		return err
	}
	if err := p.assumeIdentity(filter); err != nil {
		return err
	}
	p.path, err = Lookup(p.process.Args[0], environ(p.process.Env, "PATH"))
	if errors.As(err, &p.missing) {
		if p.config.MissingIsError {
			return p.missing
		}
		err = nil
	}
	return err
}

func (p *program) run() int {
	if p.master >= 0 {
		unix.Close(p.master)
	}
	if p.missing != nil {
		return p.refuse(p.missing)
	}
	if a := p.process.ExecCPUAffinity; a != nil && p.config.Spec == nil {
		if err := setAffinity("final", a.Final); err != nil {
			return fail(err)
		}
	}
	if err := p.startHooks(); err != nil {
		return fail(err)
	}
	if p.filter != nil {
		if err := p.filter(); err != nil {
			return fail(err)
		}
	}
	err := unix.Exec(p.path, p.process.Args, p.process.Env)
	return p.refuse(NewExecutableError(p.process.Args[0], err))
}

// refuse ends a process whose program can't be executed, as a shell would: with a line on its stderr.
func (p *program) refuse(e *ExecutableError) int {
	if p.config.MissingIsError {
		fail(e)
		return e.Status
	}
	// A stderr that is gone can't be told.
	_, _ = unix.Write(2, []byte(e.Error()+"\n"))
	return e.Status
}
