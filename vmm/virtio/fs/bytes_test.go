package fs

import "io"

// bytesRequest is a request in plain memory: the bridge to a real kernel and the fuzzer have no rings.
type bytesRequest struct {
	in, out []byte
	written int
}

func (r *bytesRequest) Read(p []byte) (int, error) {
	n := copy(p, r.in)
	r.in = r.in[n:]
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *bytesRequest) Write(p []byte) (int, error) {
	n := copy(r.out[r.written:], p)
	r.written += n
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// The memory is given in three pieces, since a guest's is rarely in one.
func pieces(b []byte) [][]byte {
	i, j := len(b)/5, len(b)/2
	return [][]byte{b[:i], b[i:j], nil, b[j:]}
}

func (r *bytesRequest) Readable() [][]byte  { return pieces(r.in) }
func (r *bytesRequest) Writable() [][]byte  { return pieces(r.out[r.written:]) }
func (r *bytesRequest) ReadableLen() uint64 { return uint64(len(r.in)) }
func (r *bytesRequest) WritableLen() uint64 { return uint64(len(r.out) - r.written) }
func (r *bytesRequest) Filled(n uint64)     { r.written += int(n) }
