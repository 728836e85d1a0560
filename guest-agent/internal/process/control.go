package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/huskvm/husk/guest-agent/internal/stage"
	"golang.org/x/sys/unix"
)

// control is the agent's end of a stage's socket; the protocol is package stage's.
type control struct{ *net.UnixConn }

func controlPair() (*control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the stage's control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make the stage's control socket: %w", err)
	}
	return &control{conn.(*net.UnixConn)}, theirs, nil
}

// maxMessage bounds a stage's message; an error of it may quote a path or an argument.
const maxMessage = 64 << 10

// errStageGone means that the stage closed its socket: by its execve, or by dying.
var errStageGone = errors.New("the process ended before it was prepared")

// letGo lets a prepared stage execute its program.
func (c *control) letGo() error {
	_, err := c.Write([]byte{1})
	return err
}

// receive reads one message, with the terminal's master if it came along.
func (c *control) receive() (*os.File, error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if n == 0 && (err == nil || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)) {
		return nil, errStageGone
	}
	if err != nil {
		return nil, fmt.Errorf("read from stage: %w", err)
	}
	master, err := parseMaster(oob[:oobn])
	if err != nil {
		return nil, err
	}
	var m stage.Message
	if err = json.Unmarshal(buf[:n], &m); err == nil && m.Error != "" {
		err = stageError{m.Error, unix.Errno(m.Errno)}
	}
	if err != nil && master != nil {
		master.Close()
		master = nil
	}
	return master, err
}

// stageError is what a stage has said, and the system call's answer behind it, if any.
type stageError struct {
	text  string
	errno unix.Errno
}

func (e stageError) Error() string        { return e.text }
func (e stageError) Is(target error) bool { return e.errno != 0 && target == e.errno }

func parseMaster(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("read the terminal from stage: %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("read the terminal from stage: %d descriptors: %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("read the terminal from stage: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
