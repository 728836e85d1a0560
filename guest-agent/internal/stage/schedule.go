package stage

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var policies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR,
	specs.SchedBatch: unix.SCHED_BATCH, specs.SchedIdle: unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var scheduleFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams:   unix.SCHED_FLAG_KEEP_PARAMS,
	specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

// I/O priority classes of linux/ioprio.h, and where they sit in the value.
var ioClasses = map[specs.IOPriorityClass]int{
	specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3,
}

const (
	ioClassShift  = 13
	ioWhoProcess  = 1
	maxIOPriority = 7
)

// setScheduling gives the calling thread the process's CPU and I/O scheduling.
func setScheduling(proc *specs.Process) error {
	if s := proc.Scheduler; s != nil {
		policy, ok := policies[s.Policy]
		if !ok {
			return fmt.Errorf("unknown scheduler policy %q", s.Policy)
		}
		attr := unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
			Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
		}
		for _, f := range s.Flags {
			bit, ok := scheduleFlags[f]
			if !ok {
				return fmt.Errorf("unknown scheduler flag %q", f)
			}
			attr.Flags |= bit
		}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			return fmt.Errorf("set scheduler %s: %w", s.Policy, err)
		}
	}
	if io := proc.IOPriority; io != nil {
		class, ok := ioClasses[io.Class]
		if !ok || io.Priority < 0 || io.Priority > maxIOPriority {
			return fmt.Errorf("unknown I/O priority %s %d", io.Class, io.Priority)
		}
		value := uintptr(class<<ioClassShift | io.Priority)
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, ioWhoProcess, 0, value); errno != 0 {
			return fmt.Errorf("set I/O priority %s %d: %w", io.Class, io.Priority, errno)
		}
	}
	return nil
}
