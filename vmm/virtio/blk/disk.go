package blk

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// disk is the file behind a device; without one it has no sectors, and its descriptor is nobody's.
type disk struct {
	geometry
	file     *os.File
	fd       int
	readOnly bool
	serial   [serialSize]byte

	complained sync.Once
}

// openDisk makes a disk of a file, which is closed if it can't be.
func openDisk(cfg Config) (*disk, error) {
	if cfg.File == nil {
		return nil, errors.New("disk without a file")
	}
	g, err := measure(cfg.File, cfg.ReadOnly)
	if len(cfg.Serial) > serialSize {
		err = fmt.Errorf("serial %q has %d bytes, more than %d", cfg.Serial, len(cfg.Serial), serialSize)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("disk %s: %w", cfg.File.Name(), err), cfg.File.Close())
	}
	d := &disk{geometry: g, file: cfg.File, fd: int(cfg.File.Fd()), readOnly: cfg.ReadOnly}
	copy(d.serial[:], cfg.Serial)
	return d, nil
}

func (d *disk) close() error {
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}

// covers says whether n bytes from sector on are whole sectors of the disk.
func (d *disk) covers(sector, n uint64) bool {
	count := n >> sectorShift
	return n%sectorSize == 0 && count <= d.sectors && sector <= d.sectors-count
}

// discard gives the extent's storage back. Reads give zeroes afterwards, which is more than was asked for.
func (d *disk) discard(e extent) error {
	return d.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e)
}

var zeroes [64 << 10]byte

// zero makes the extent read as zeroes, and writes them where the host knows no shorter way.
func (d *disk) zero(e extent) error {
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)
	if e.flags&flagUnmap != 0 {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	err := d.fallocate(mode, e)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	off, left := int64(e.sector<<sectorShift), int(e.count)<<sectorShift
	for left > 0 {
		n, err := retry(func() (int, error) { return unix.Pwrite(d.fd, zeroes[:min(left, len(zeroes))], off) })
		if err != nil {
			return err
		}
		off, left = off+int64(n), left-n
	}
	return nil
}

func (d *disk) fallocate(mode uint32, e extent) error {
	_, err := retry(func() (int, error) {
		return 1, unix.Fallocate(d.fd, mode, int64(e.sector<<sectorShift), int64(e.count)<<sectorShift)
	})
	return err
}

// sync makes what was written stable.
func (d *disk) sync() error {
	_, err := retry(func() (int, error) { return 1, unix.Fdatasync(d.fd) })
	return err
}

// complain logs the disk's first error. The guest can provoke any number.
func (d *disk) complain(err error) {
	d.complained.Do(func() { slog.Warn("disk request", "disk", d.file.Name(), "error", err) })
}

// errEnd is for a file that has become shorter than the disk.
var errEnd = errors.New("the file ends before the disk does")

// retry calls op again when a signal has interrupted it. Nothing done at all is an error.
func retry(op func() (int, error)) (int, error) {
	for {
		n, err := op()
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n <= 0:
			return 0, errEnd
		default:
			return n, nil
		}
	}
}

// geometry is what a file makes of a disk.
type geometry struct {
	sectors   uint64
	blockSize uint32
	physical  uint8 // physical block size, as a power of two of blockSize
}

// measure refuses what can't be a disk.
func measure(f *os.File, readOnly bool) (geometry, error) {
	var st unix.Stat_t
	fd := int(f.Fd())
	if err := unix.Fstat(fd, &st); err != nil {
		return geometry{}, fmt.Errorf("stat: %w", err)
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return geometry{}, fmt.Errorf("get open flags: %w", err)
	}
	switch mode := flags & unix.O_ACCMODE; {
	case flags&unix.O_PATH != 0:
		return geometry{}, errors.New("open as a path only; open it for reading or writing")
	case mode == unix.O_WRONLY:
		return geometry{}, errors.New("open for writing only; open it for reading too")
	case mode == unix.O_RDONLY && !readOnly:
		return geometry{}, errors.New("open for reading only; open it for writing or make the disk read-only")
	}
	g := geometry{blockSize: sectorSize, physical: 3}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		g.sectors = uint64(st.Size) >> sectorShift
	case unix.S_IFBLK:
		size, err := unix.Seek(fd, 0, unix.SEEK_END)
		if err != nil {
			return geometry{}, fmt.Errorf("seek to the end: %w", err)
		}
		g.sectors = uint64(size) >> sectorShift
		if g.blockSize, g.physical, err = blockSizes(fd); err != nil {
			return geometry{}, err
		}
	default:
		return geometry{}, errors.New("neither a regular file nor a block device")
	}
	if g.sectors == 0 {
		return geometry{}, fmt.Errorf("smaller than a sector of %d bytes", sectorSize)
	}
	return g, nil
}

func blockSizes(fd int) (logical uint32, physical uint8, err error) {
	logical, err = unix.IoctlGetUint32(fd, unix.BLKSSZGET)
	if err != nil {
		return 0, 0, fmt.Errorf("get logical block size: %w", err)
	}
	p, err := unix.IoctlGetUint32(fd, unix.BLKPBSZGET)
	if err != nil {
		return 0, 0, fmt.Errorf("get physical block size: %w", err)
	}
	if logical < sectorSize || logical&(logical-1) != 0 || p < logical || p&(p-1) != 0 {
		return 0, 0, fmt.Errorf("blocks of %d and %d bytes", logical, p)
	}
	return logical, uint8(bits.Len32(p/logical) - 1), nil
}
