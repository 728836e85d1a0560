package blk

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/queue"
)

// request is what one worker needs to carry requests out, one after the other, without allocating.
type request struct {
	disk         *disk
	writeThrough bool // the driver relies on finished writes being stable

	scratch [headerSize]byte // also of an extent
	extents [maxExtents]extent
	vector  vector
}

// handle carries out the request in c and answers it. The error is an offence that can't be answered.
func (r *request) handle(c *queue.Chain) error {
	status := lastByte(c.Writable())
	if status == nil {
		return queue.Offence("disk request without a status byte") // virtio 1.2 §5.2.6
	}
	if n := c.ReadableLen(); n < headerSize {
		return queue.Offence("disk request with a header of %d bytes", n)
	}
	_, _ = c.Read(r.scratch[:])
	*status = r.execute(c, parseHeader(&r.scratch))
	if c.WritableLen() == 1 {
		c.Filled(1) // the length tells only of a beginning that was written without a gap (§2.7.8.2)
	}
	return nil
}

// lastByte is where the status goes, however the driver has split the buffers.
func lastByte(segs [][]byte) *byte {
	for i := len(segs) - 1; i >= 0; i-- {
		if n := len(segs[i]); n > 0 {
			return &segs[i][n-1]
		}
	}
	return nil
}

func (r *request) execute(c *queue.Chain, h header) (status byte) {
	switch h.kind {
	case typeIn:
		return r.read(c, h.sector)
	case typeGetID:
		serial := r.disk.serial[:]
		_, _ = c.Write(serial[:min(serialSize, c.WritableLen()-1)])
		return statusOK
	case typeFlush:
		if r.disk.readOnly || r.disk.file == nil {
			return statusOK
		}
		return r.result(r.disk.sync())
	case typeOut, typeDiscard, typeWriteZeroes:
	default:
		return statusUnsupp
	}
	if r.disk.readOnly || r.disk.file == nil {
		return statusIOErr
	}
	if h.kind == typeOut {
		status = r.write(c, h.sector)
	} else {
		status = r.clear(c, h.kind)
	}
	if status == statusOK && r.writeThrough {
		return r.result(r.disk.sync())
	}
	return status
}

// read fills the writable part, up to the status byte.
func (r *request) read(c *queue.Chain, sector uint64) byte {
	left := c.WritableLen() - 1
	if !r.disk.covers(sector, left) {
		return statusIOErr
	}
	for off := int64(sector << sectorShift); left > 0; {
		n, err := r.vector.preadv(r.disk.fd, c.Writable(), left, off)
		if err != nil {
			return r.result(err)
		}
		c.Filled(n)
		left, off = left-n, off+int64(n)
	}
	return statusOK
}

// write takes what follows the header.
func (r *request) write(c *queue.Chain, sector uint64) byte {
	left := c.ReadableLen()
	if !r.disk.covers(sector, left) {
		return statusIOErr
	}
	for off := int64(sector << sectorShift); left > 0; {
		n, err := r.vector.pwritev(r.disk.fd, c.Readable(), left, off)
		if err != nil {
			return r.result(err)
		}
		c.Consumed(n)
		left, off = left-n, off+int64(n)
	}
	return statusOK
}

// clear carries out DISCARD and WRITE_ZEROES, if all of their extents are in order (§5.2.6.2).
func (r *request) clear(c *queue.Chain, kind uint32) byte {
	n := c.ReadableLen()
	if n == 0 || n%extentSize != 0 || n > maxExtents*extentSize {
		return statusIOErr
	}
	extents := r.extents[:n/extentSize]
	for i := range extents {
		_, _ = c.Read(r.scratch[:])
		e := parseExtent(&r.scratch)
		extents[i] = e
		if e.flags&^flagUnmap != 0 || kind == typeDiscard && e.flags != 0 {
			return statusUnsupp
		}
		if e.count > maxExtentSectors || !r.disk.covers(e.sector, uint64(e.count)<<sectorShift) {
			return statusIOErr
		}
	}
	for _, e := range extents {
		if e.count == 0 {
			continue
		}
		var err error
		if kind == typeDiscard {
			err = r.disk.discard(e)
		} else {
			err = r.disk.zero(e)
		}
		if err != nil {
			return r.result(err)
		}
	}
	return statusOK
}

func (r *request) result(err error) byte {
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, unix.EOPNOTSUPP):
		return statusUnsupp
	default:
		r.disk.complain(err)
		return statusIOErr
	}
}
