package passthrough

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// handle is an open file or directory of the guest's.
type handle struct {
	share *share
	dir   bool

	mu   sync.RWMutex // held for reading while fd is in use, so that nobody closes it meanwhile
	fd   int
	gone bool

	scan sync.Mutex // a directory has one position
}

func (h *handle) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.gone {
		h.gone = true
		_ = unix.Close(h.fd)
	}
}

// use returns the handle with its descriptor held open, until done.
func (fs *FS) use(id uint64, dir bool) (*handle, fuse.Status) {
	fs.mu.Lock()
	h, ok := fs.handles[id]
	fs.mu.Unlock()
	if !ok || h.dir != dir {
		return nil, fuse.EBADF
	}
	h.mu.RLock()
	if h.gone {
		h.mu.RUnlock()
		return nil, fuse.EBADF
	}
	return h, fuse.OK
}

func (h *handle) done() { h.mu.RUnlock() }

func (fs *FS) addHandle(h *handle) uint64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.nextFH++
	fs.handles[fs.nextFH] = h
	return fs.nextFH
}

func (fs *FS) release(id uint64) {
	fs.mu.Lock()
	h, ok := fs.handles[id]
	delete(fs.handles, id)
	fs.mu.Unlock()
	if ok {
		h.close()
	}
}

// Release implements fuse.RawFileSystem.
func (fs *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { fs.release(in.Fh) }

// ReleaseDir implements fuse.RawFileSystem.
func (fs *FS) ReleaseDir(in *fuse.ReleaseIn) { fs.release(in.Fh) }
