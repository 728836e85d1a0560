package passthrough

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/huskvm/husk/vmm/virtio/fs/fuse"
)

// session is what there is between one INIT and the next: the negotiated capabilities, the inodes the client
// knows, its open files.
//
// A node or handle lives as long as the session lists it or a request uses it; its descriptor is closed after
// both. So a client that forgets or releases what another request of its is using does no harm, and a descriptor's
// number is never used for what it no longer is.
type session struct {
	big   bool
	caps  uint64
	limit int // of nodes and handles
	root  *node

	mu      sync.Mutex
	dropped bool
	nodes   map[uint64]*node
	keys    map[nodeKey]*node
	handles map[uint64]*handle
	devices map[uint64]uint64 // st_dev to a small number
	nextID  uint64            // of nodes and handles; never used again

	crowded  chan<- struct{}
	told     bool          // that it is crowded
	hopeless bool          // nobody makes room
	room     chan struct{} // closed when there is some; nil when nobody waits
}

// nodeKey says which inode of the host a node is. A share is part of it, since rights hang on it, and so is the
// mount, since rename and link across two are not the same as within one.
type nodeKey struct {
	share         *share
	dev, ino, mnt uint64
}

// node is an inode the client knows.
type node struct {
	id       uint64
	key      nodeKey
	share    *share // nil for the root
	fd       int    // O_PATH
	typ      uint32 // S_IFMT bits; an inode never changes them
	inoMask  uint64 // xor-ed into inode numbers, see session.place
	submount bool

	lookups uint64 // session.mu
	refs    atomic.Int32

	cache dataVersion
}

// handle is an open file or directory.
type handle struct {
	id       uint64
	node     *node
	fd       int // -1 for the root directory
	writable bool
	refs     atomic.Int32

	dirMu  sync.Mutex // held over seek and getdents, which belong together
	dirPos int64      // where fd is; -1 when unknown
}

func newSession(big bool, caps uint64, limit int, crowded chan<- struct{}) *session {
	root := &node{id: fuse.RootID, fd: -1, typ: unix.S_IFDIR}
	root.refs.Store(1)
	return &session{
		big: big, caps: caps, limit: limit, root: root,
		nodes: map[uint64]*node{fuse.RootID: root}, keys: map[nodeKey]*node{},
		handles: map[uint64]*handle{}, devices: map[uint64]uint64{}, nextID: fuse.RootID, crowded: crowded,
	}
}

// node returns a node for use, until put; nil if the client doesn't know it.
func (s *session) node(id uint64) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[id]
	if n != nil {
		n.refs.Add(1)
	}
	return n
}

// intern returns the node of the inode that fd, an O_PATH descriptor, refers to, with one lookup more, and for
// use until put. fd belongs to the session from now on, also when there is an error.
func (s *session) intern(parent *node, sh *share, fd int, st *unix.Statx_t) (*node, unix.Errno) {
	key := nodeKey{sh, unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, st.Mnt_id}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, e := s.known(key)
	if n == nil && e == 0 && s.count() >= s.limit {
		if e = s.makeRoom(); e == 0 {
			n, e = s.known(key) // much may have happened
		}
	}
	if n != nil || e != 0 {
		_ = unix.Close(fd)
		return n, e
	}
	s.nextID++
	n = &node{id: s.nextID, key: key, share: sh, fd: fd, typ: uint32(st.Mode) & unix.S_IFMT, lookups: 1}
	n.submount, n.inoMask = s.place(parent, n)
	n.refs.Store(2)
	sh.open.Add(1)
	s.nodes[n.id], s.keys[key] = n, n
	s.noteCrowd()
	return n, 0
}

// known returns the node of an inode, if there is one, with one lookup more, and for use until put.
func (s *session) known(key nodeKey) (*node, unix.Errno) {
	if s.dropped || key.share.removed.Load() {
		return nil, unix.ESTALE
	}
	n := s.keys[key]
	if n != nil {
		n.lookups++
		n.refs.Add(1)
	}
	return n, 0
}

// place keeps inode numbers of different file systems of the host apart. A directory that begins another one is
// announced as a submount, so that the client gives it a device number of its own. What can't be one (files
// alone in the root, files mounted over files, inline shares, clients without submounts) has the top 16 bits of its inode
// number xor-ed with a number of its device, which maps no two inodes of a device to one, and none of two
// devices unless their numbers go beyond 48 bits.
func (s *session) place(parent, n *node) (submount bool, mask uint64) {
	if s.caps&fuse.CapSubmounts != 0 {
		switch {
		case parent.share == nil && n.share.root:
			return false, 0
		case n.typ != unix.S_IFDIR, parent.share == nil && n.share.inline:
		case parent.share == nil || parent.key.dev != n.key.dev || parent.key.mnt != n.key.mnt:
			return true, 0
		default:
			return false, parent.inoMask
		}
		if parent.share != nil && parent.key.dev == n.key.dev {
			return false, parent.inoMask
		}
	}
	i := s.devices[n.key.dev]
	if i == 0 {
		i = uint64(len(s.devices) + 1)
		s.devices[n.key.dev] = i
	}
	return false, i << 48
}

// again counts one more lookup of a node in use. False if the client has forgotten it meanwhile.
func (s *session) again(n *node) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[n.id] != n {
		return false
	}
	n.lookups++
	return true
}

// forget takes back lookups; more than there are is as many as there are.
func (s *session) forget(id, lookups uint64) {
	s.mu.Lock()
	n := s.nodes[id]
	if n == nil || n == s.root {
		s.mu.Unlock()
		return
	}
	n.lookups -= min(lookups, n.lookups)
	gone := n.lookups == 0
	if gone {
		delete(s.nodes, id)
		delete(s.keys, n.key)
		s.noteRoom()
	}
	s.mu.Unlock()
	if gone {
		n.put()
	}
}

// addHandle lists fd as an open file of n, which the caller is using. fd belongs to the session from now on,
// also when there is an error.
func (s *session) addHandle(n *node, fd int, writable bool) (*handle, unix.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := unix.Errno(0)
	if s.count() >= s.limit {
		e = s.makeRoom()
	}
	if s.dropped || (n.share != nil && n.share.removed.Load()) {
		e = unix.ESTALE
	}
	if e != 0 {
		closeFD(fd)
		return nil, e
	}
	s.nextID++
	h := &handle{id: s.nextID, node: n, fd: fd, writable: writable}
	h.refs.Store(1)
	n.refs.Add(1)
	s.handles[h.id] = h
	s.noteCrowd()
	return h, 0
}

// handle returns an open file of n for use, until put; nil if there is no such one.
func (s *session) handle(id uint64, n *node) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.handles[id]
	if h == nil || h.node != n {
		return nil
	}
	h.refs.Add(1)
	return h
}

// release takes an open file off the list.
func (s *session) release(h *handle) {
	s.mu.Lock()
	listed := s.handles[h.id] == h
	delete(s.handles, h.id)
	s.noteRoom()
	s.mu.Unlock()
	if listed {
		h.put()
	}
}

// drop takes everything of a share off the lists, or of all shares, for good, if sh is nil.
func (s *session) drop(sh *share) {
	s.mu.Lock()
	var nodes []*node
	var handles []*handle
	s.dropped = s.dropped || sh == nil
	for id, h := range s.handles {
		if sh == nil || h.node.share == sh {
			delete(s.handles, id)
			handles = append(handles, h)
		}
	}
	for id, n := range s.nodes {
		if n != s.root && (sh == nil || n.share == sh) {
			delete(s.nodes, id)
			delete(s.keys, n.key)
			nodes = append(nodes, n)
		}
	}
	s.noteRoom()
	s.mu.Unlock()
	for _, h := range handles {
		h.put()
	}
	for _, n := range nodes {
		n.put()
	}
}

// put ends a use; the last one closes the descriptor.
func (n *node) put() {
	if n.refs.Add(-1) == 0 && n.share != nil {
		closeFD(n.fd)
		n.share.open.Done()
	}
}

// put ends a use; the last one closes the descriptor.
func (h *handle) put() {
	if h.refs.Add(-1) == 0 {
		closeFD(h.fd)
		h.node.put()
	}
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}
