package boot

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openFiles is the limit of open files that containers start from, as under containerd's own service.
const openFiles = 1 << 20

// Limits sets what containers inherit unless their specification says otherwise.
func Limits() error {
	for _, l := range []struct {
		resource int
		value    uint64
	}{
		{unix.RLIMIT_NOFILE, openFiles},
		{unix.RLIMIT_NPROC, unix.RLIM_INFINITY},
		{unix.RLIMIT_CORE, unix.RLIM_INFINITY},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("set rlimit %d: %w", l.resource, err)
		}
	}
	// These are the user's, whatever container he is in, and the agent's with them. What they take is counted as memory.
	return errors.Join(set("fs/inotify/max_user_watches", "1048576"), set("fs/inotify/max_user_instances", "8192"))
}

// set sets a value of the kernel's, if it has that.
func set(name, value string) error {
	err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

// LetSleep stops the kernel from looking twice a second whether memory is worth compacting before somebody needs that:
// an idle VM costs its host nothing.
func LetSleep() error {
	return set("vm/compaction_proactiveness", "0") // which a kernel without compaction does not have
}

// LogToKernel sends the log where the kernel's own goes, so that the host finds both in one place. Without
// /dev/kmsg it stays on stderr.
func LogToKernel() {
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		slog.Warn("log to the kernel", "error", err)
		return
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(record{kmsg}, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{} // the kernel has its own
			}
			return a
		},
	})))
}

// record makes each line one record of the kernel's log, which takes a kilobyte.
type record struct{ kmsg *os.File }

func (r record) Write(line []byte) (int, error) {
	const limit = 900
	text := append([]byte("<4>husk-agent: "), line[:min(len(line), limit)]...)
	if _, err := r.kmsg.Write(text); err != nil {
		return 0, err
	}
	return len(line), nil
}

// syncTime bounds how long file systems may take at the end: the host may be gone already.
const syncTime = 5 * time.Second

// Off ends the VM: a restart is its exit, at once.
func Off() {
	synced := make(chan struct{})
	go func() {
		unix.Sync()
		close(synced)
	}()
	select {
	case <-synced:
	case <-time.After(syncTime):
	}
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	// The end of PID 1 is a panic, which ends the VM as well.
	slog.Error("reboot", "error", err)
	os.Exit(1)
}
