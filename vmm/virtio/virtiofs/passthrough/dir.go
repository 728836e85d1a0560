package passthrough

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// rootHandle is the handle of every open root: it has no descriptor.
const rootHandle = 0

// OpenDir implements fuse.RawFileSystem.
func (fs *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.Fh = rootHandle
		return fuse.OK
	}
	i, code := fs.get(in.NodeId)
	if code != fuse.OK {
		return code
	}
	defer fs.put(i)
	if i.kind != unix.S_IFDIR {
		return fuse.ENOTDIR
	}
	fd, err := fs.reopen(i.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return status(err)
	}
	out.Fh = fs.addHandle(&handle{share: i.share, dir: true, fd: fd})
	return fuse.OK
}

// ReadDir implements fuse.RawFileSystem.
func (fs *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.readDir(in, func(e fuse.DirEntry) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus implements fuse.RawFileSystem. An entry that can't be looked up has no node id, and the guest asks
// again when it needs it.
func (fs *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir, code := fs.get(in.NodeId)
	if code != fuse.OK && in.NodeId != fuse.FUSE_ROOT_ID {
		return code
	}
	if dir != nil {
		defer fs.put(dir)
	}
	return fs.readDir(in, func(e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if !goodName(e.Name) {
			return true
		}
		if dir == nil {
			_ = fs.lookupShare(e.Name, entry)
		} else if fs.lookup(dir, e.Name, entry) != fuse.OK {
			*entry = fuse.EntryOut{}
		}
		return true
	})
}

// readDir gives entries from an offset on to add, until it says that there is no more room.
func (fs *FS) readDir(in *fuse.ReadIn, add func(fuse.DirEntry) bool) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		fs.readRoot(in.Offset, add)
		return fuse.OK
	}
	h, code := fs.use(in.Fh, true)
	if code != fuse.OK {
		return code
	}
	defer h.done()
	h.scan.Lock()
	defer h.scan.Unlock()
	if _, err := unix.Seek(h.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
		return status(err)
	}
	buf := make([]byte, min(max(in.Size, 4096), 32<<10))
	for {
		n, err := unix.Getdents(h.fd, buf)
		if err != nil {
			return status(err)
		}
		if n == 0 {
			return fuse.OK
		}
		for rest := buf[:n]; len(rest) > 0; {
			e, size := parseDirent(rest)
			if !add(e) {
				return fuse.OK
			}
			rest = rest[size:]
		}
	}
}

// parseDirent reads one struct linux_dirent64 (getdents(2)), as the host's kernel wrote it.
func parseDirent(b []byte) (fuse.DirEntry, int) {
	const header = 19
	size := int(binary.NativeEndian.Uint16(b[16:]))
	name, _, _ := bytes.Cut(b[header:size], []byte{0})
	return fuse.DirEntry{
		Ino:  binary.NativeEndian.Uint64(b),
		Off:  binary.NativeEndian.Uint64(b[8:]),
		Mode: uint32(b[18]) << 12, // d_type is the upper bits of a mode
		Name: string(name),
	}, size
}

// readRoot lists the shares; offsets count entries.
func (fs *FS) readRoot(offset uint64, add func(fuse.DirEntry) bool) {
	fs.mu.Lock()
	names := slices.Sorted(maps.Keys(fs.shares))
	entries := []fuse.DirEntry{
		{Name: ".", Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR}, {Name: "..", Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR},
	}
	for _, name := range names {
		i := fs.shares[name]
		entries = append(entries, fuse.DirEntry{Name: name, Ino: i.ino, Mode: i.kind})
	}
	fs.mu.Unlock()
	for i := offset; i < uint64(len(entries)); i++ {
		entries[i].Off = i + 1
		if !add(entries[i]) {
			return
		}
	}
}
