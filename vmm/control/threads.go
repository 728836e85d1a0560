package control

import (
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// threads are those that stand for containers.
type threads struct {
	mu   sync.Mutex
	ends map[int]chan struct{} // by the threads' ids
}

// add starts one, and returns its id.
func (t *threads) add() int {
	ids, end := make(chan int), make(chan struct{})
	go idle(ids, end)
	id := <-ids
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ends == nil {
		t.ends = make(map[int]chan struct{})
	}
	t.ends[id] = end
	return id
}

// remove ends the thread with an id, and says whether there was one.
func (t *threads) remove(id int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	end, ok := t.ends[id]
	if ok {
		close(end)
		delete(t.ends, id)
	}
	return ok
}

// idle tells the id of a thread that waits until end is closed, and is gone then.
func idle(ids chan<- int, end <-chan struct{}) {
	runtime.LockOSThread() // and not unlocked: the thread ends with its goroutine
	if id := unix.Gettid(); id != os.Getpid() {
		ids <- id
		<-end
		return
	}
	// The process's first thread has its id, and cannot end. While this goroutine holds it, another gets another.
	go idle(ids, end)
	<-end
	runtime.UnlockOSThread()
}
