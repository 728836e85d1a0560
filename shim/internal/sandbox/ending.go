package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/rundir"
)

// tailSize is how much of a console or log goes into an error.
const tailSize = 2 << 10

// endError says how the VM ended, which it must have.
func (v *vm) endError() error {
	status := v.machine.Status()
	var text string
	switch {
	case v.stopping.Load():
		text = "the VM was stopped"
	case v.oomKilled.Load():
		text = "the host killed the VM: its cgroup is out of memory"
	case status.Guest != nil:
		text = describeGuestEnd(status.Guest)
	case status.Process.Signaled():
		text = fmt.Sprintf("husk-vmm was killed by signal %d (%s)", status.Process.Signal(), status.Process.Signal()) + v.logTail()
	default:
		text = fmt.Sprintf("husk-vmm exited with status %d", status.Process.ExitStatus()) + v.logTail()
	}
	return fmt.Errorf("%s: %w", text, errdefs.ErrUnavailable)
}

func describeGuestEnd(end *vmmv1.WaitResponse) string {
	text := map[vmmv1.WaitResponse_Reason]string{
		vmmv1.WaitResponse_REASON_SHUTDOWN: "the guest powered off or panicked",
		vmmv1.WaitResponse_REASON_CRASH:    "the guest crashed",
		vmmv1.WaitResponse_REASON_VMM:      "the VMM failed",
	}[end.Reason]
	if text == "" {
		text = "the guest ended"
	}
	if end.Detail != "" {
		text += ": " + end.Detail
	}
	return text + quoteTail("its console", end.ConsoleTail)
}

// quoteTail quotes the last lines of what; nothing when it is empty.
func quoteTail(what string, data []byte) string {
	if len(data) > tailSize {
		data = data[len(data)-tailSize:]
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			data = data[i+1:]
		}
	}
	text := strings.TrimSpace(strings.ToValidUTF8(string(data), "?"))
	if text == "" {
		return ""
	}
	return fmt.Sprintf("; %s ends with:\n%s\n", what, text)
}

func (v *vm) logTail() string {
	f, err := os.Open(v.dir.Join(rundir.VMMLog))
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > tailSize {
		_, _ = f.Seek(-tailSize, io.SeekEnd)
	}
	data, _ := io.ReadAll(io.LimitReader(f, tailSize))
	return quoteTail("its log", data)
}

// consoleTail asks a living VM for the end of its console.
func (v *vm) consoleTail() string {
	ctx, cancel := context.WithTimeout(v.ctx, time.Second)
	defer cancel()
	info, err := v.machine.API().Info(ctx, &vmmv1.InfoRequest{})
	if err != nil {
		return ""
	}
	return quoteTail("its console", info.ConsoleTail)
}

// report logs a VM's end that nobody asked for.
func (v *vm) report(id string) {
	if !v.stopping.Load() {
		log.L.WithField("id", id).WithField("oom", v.oomKilled.Load()).WithError(v.endError()).Error("the VM ended")
	}
}
