package control

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func exists(id int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", os.Getpid(), id))
	return err == nil
}

func TestEveryThreadHasAnIDOfItsOwnUntilItIsRemoved(t *testing.T) {
	var all threads
	ids := map[int]bool{}
	for range 50 {
		id := all.add()
		if id == os.Getpid() || ids[id] || !exists(id) {
			t.Fatalf("thread %d of process %d, beside %v", id, os.Getpid(), ids)
		}
		ids[id] = true
	}
	for id := range ids {
		if !all.remove(id) || all.remove(id) {
			t.Errorf("thread %d is not removed exactly once", id)
		}
		for end := time.Now().Add(20 * time.Second); exists(id); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("thread %d is there after it was removed", id)
			}
		}
	}
}
