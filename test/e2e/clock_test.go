package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/huskvm/husk/test/rig"
)

// offset is how far a container's clock is ahead of the host's. The host dates what the container makes on a share, the
// guest what is made in memory before and after.
func offset(t *testing.T, id string) time.Duration {
	t.Helper()
	const look = `rm -f /stamp /dev/shm/?; touch /dev/shm/1; touch /stamp; touch /dev/shm/2; stat -c %y /dev/shm/1 /stamp /dev/shm/2`
	var at [3]time.Time
	out := strings.Split(strings.TrimSpace(ctr(t, "task", "exec", "--exec-id", newID(t), id, "sh", "-c", look).Stdout), "\n")
	if len(out) != len(at) {
		t.Fatalf("got %q", out)
	}
	for i := range at {
		var err error
		if at[i], err = time.Parse("2006-01-02 15:04:05 -0700", out[i]); err != nil {
			t.Fatal(err)
		}
	}
	before, host, after := at[0], at[1], at[2]
	switch {
	case host.Before(before):
		return before.Sub(host)
	case host.After(after):
		return after.Sub(host)
	}
	return 0
}

func TestTheClockIsTheHosts(t *testing.T) {
	t.Parallel() // it mostly waits
	const most = 50 * time.Millisecond
	flags := withConfigFlags(t, configuration("clock_interval = \"1s\"\n"))
	b := start(t, append(flags, "--privileged"), "sleep", "1000")
	if d := offset(t, b.id); d.Abs() > most {
		t.Errorf("after the boot it is off by %s", d)
	}
	ctr(t, "task", "pause", b.id)
	time.Sleep(time.Minute) // which the guest is to miss
	ctr(t, "task", "resume", b.id)
	if d := offset(t, b.id); d.Abs() > most {
		t.Errorf("after a pause it is off by %s", d)
	}
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format("2006-01-02 15:04:05") }
	for _, drift := range []string{at(-time.Hour), at(time.Hour), "2001-01-01 00:00:00", "2041-01-01 00:00:00"} {
		res, err := rig.Exec(shared.Ctr(testContext(t), "task", "exec", "--exec-id", newID(t), b.id, "date", "-s", drift))
		if err != nil || res.Status != 0 {
			t.Fatalf("%v, %+v", err, res)
		}
		eventually(t, "the clock is right again", func() bool { return offset(t, b.id).Abs() <= most })
	}
}
