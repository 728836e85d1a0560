package passthrough

import (
	"fmt"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// procDir is /proc/self/fd, held open, and a thread whose working directory it is.
type procDir struct {
	fd    int
	jobs  chan func()
	ended chan struct{}
}

// openProcDir takes the directory. Extended attributes of what can't be opened (symbolic links, fifos, sockets,
// devices) have no call by descriptor, only by path, so there is a thread with a working directory of its own
// that can say "7" and mean descriptor 7.
func openProcDir() (*procDir, error) {
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc/self/fd: %w", err)
	}
	p := &procDir{fd: fd, jobs: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error, 1)
	go p.run(ready)
	if err := <-ready; err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return p, nil
}

// Close ends the thread.
func (p *procDir) Close() error {
	close(p.jobs)
	<-p.ended
	return unix.Close(p.fd)
}

// name is what descriptor fd is called in the directory.
func (p *procDir) name(fd int) string { return strconv.Itoa(fd) }

// open opens the inode behind fd, which must be a regular file or a directory, once more.
func (p *procDir) open(fd, flags int) (int, unix.Errno) {
	for {
		n, err := unix.Openat(p.fd, p.name(fd), flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return n, errno(err)
		}
	}
}

// do runs job in the directory.
func (p *procDir) do(job func()) {
	done := make(chan struct{})
	p.jobs <- func() { defer close(done); job() }
	<-done
}

// run is the thread of a procDir. It is never unlocked, so it ends with the goroutine, and nothing else in the
// process gets to run with its working directory.
func (p *procDir) run(ready chan<- error) {
	defer close(p.ended)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		ready <- fmt.Errorf("unshare the working directory of a thread: %w", err)
		return
	}
	if err := unix.Fchdir(p.fd); err != nil {
		ready <- fmt.Errorf("enter /proc/self/fd: %w", err)
		return
	}
	ready <- nil
	for job := range p.jobs {
		job()
	}
}
