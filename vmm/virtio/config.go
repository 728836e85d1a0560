package virtio

// ReadConfigBytes fills p from offset off of a configuration space that is held as bytes; zeroes beyond its end.
func ReadConfigBytes(space, p []byte, off uint32) {
	clear(p)
	if uint64(off) < uint64(len(space)) {
		copy(p, space[off:])
	}
}
