package stage

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Exit statuses of a process whose program can't be executed, as shells have them.
const (
	StatusNotFound      = 127
	StatusNotExecutable = 126
)

// ExecutableError tells why a program can't be executed, in the words of os/exec that users of runc know.
type ExecutableError struct {
	Name   string
	Reason string
	Status int
}

func (e *ExecutableError) Error() string { return fmt.Sprintf("exec: %q: %s", e.Name, e.Reason) }

// NewExecutableError classifies what execve or stat answered.
func NewExecutableError(name string, err error) *ExecutableError {
	status := StatusNotExecutable
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		status = StatusNotFound
	}
	return &ExecutableError{Name: name, Reason: err.Error(), Status: status}
}

// Lookup finds the file that name means to the calling thread: a path as it is, a bare name in the directories
// of path, the value of $PATH. The error is an *ExecutableError.
func Lookup(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		err := executable(name)
		if err == nil {
			return name, nil
		}
		e := NewExecutableError(name, err)
		if e.Status == StatusNotFound {
			e.Reason = "stat " + name + ": " + e.Reason
		}
		return "", e
	}
	var denied error
	if name != "" {
		for _, dir := range filepath.SplitList(path) {
			if dir == "" {
				dir = "."
			}
			file := filepath.Join(dir, name)
			if dir == "." {
				file = "./" + name
			}
			err := executable(file)
			if err == nil {
				return file, nil
			}
			if denied == nil && errors.Is(err, unix.EACCES) && exists(file) {
				denied = err
			}
		}
	}
	if denied != nil {
		return "", NewExecutableError(name, denied)
	}
	return "", &ExecutableError{Name: name, Reason: "executable file not found in $PATH", Status: StatusNotFound}
}

func executable(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	return unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
}

func exists(file string) bool {
	var st unix.Stat_t
	return unix.Stat(file, &st) == nil
}
