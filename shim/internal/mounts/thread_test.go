package mounts

import "runtime"

// lockThread is never undone: the thread, with the namespace it made, ends with its goroutine.
func lockThread() { runtime.LockOSThread() }
