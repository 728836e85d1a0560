package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fileDeviations are where a guest's answer is not the host's, with the reason: docs/filesystem.md explains them.
var fileDeviations = []struct{ guest, reason string }{
	{`^open: ioctl for flags: ENOTTY$`, "no ioctl reaches the host"},
	{`^mknod: (null|disk): EPERM ENOENT `, "a device of the host's is not for a guest to make"},
	{`^xattr: (symlink|fifo) (trusted|security)\.a: EPERM ENODATA $`, "their place on the host is below user., which only files and directories have"},
	{`^xattr: (symlink|fifo) lists: \[\]$`, "the same"},
	{`^xattr: (symlink|fifo) removes: EPERM EPERM EPERM \[\]$`, "the same"},
	{`^acl: `, "the guest's kernel has no ACLs on submounts"},
	{`^fallocate: (collapse|insert) .*: ENOTSUP `, "the guest's kernel has neither"},
	{`^fallocate: (collapse|insert) .* charts: `, "the same"},
	{`^set-id: \d+ \w+ changes no owner: ok `, "the guest's kernel takes it for nothing to do"},
	{`^times: chown to nobody else: ok file false false `, "the same"},
	{`^set-id: \d+ root allocates: ok 757$`, "who allocates is not told, and counts as without CAP_FSETID"},
	{`^set-id: (2745|6666) .*: ok 2\d\d\d$`, "FUSE takes set-group-ID away only from what the group may execute"},
}

// What programs do to files has the results that it has on the host, in a directory that is shared with the guest.
func TestSharedFilesAnswerAsTheHostsDo(t *testing.T) {
	if *posix == "" {
		t.Skip("no test program: make bin/test/posix, and give -posix")
	}
	host, guest := t.TempDir(), t.TempDir()
	// Users other than root must get there.
	if err := os.Chmod(filepath.Dir(host), 0o755); err != nil {
		t.Fatal(err)
	}
	want, err := exec.Command(*posix, host).Output()
	if err != nil {
		t.Fatalf("on the host: %v", err)
	}
	res := ctrRun(t, []string{"--privileged", "--allow-new-privs", bindFlag(guest, host, "rw"), bindFlag(*posix, "/posix", "ro")}, "/posix", host)
	if res.Status != 0 {
		t.Fatalf("status %d after %d lines: %s", res.Status, strings.Count(res.Stdout, "\n"), res.Stderr)
	}
	compareAnswers(t, strings.Split(res.Stdout, "\n"), strings.Split(string(want), "\n"))
	// What a guest has made, the host can remove.
	if err := os.RemoveAll(guest); err != nil {
		t.Error(err)
	}
}

func compareAnswers(t *testing.T, guest, host []string) {
	t.Helper()
	if len(guest) != len(host) {
		t.Errorf("%d answers, want %d", len(guest), len(host))
	}
	known := 0
	for i := range min(len(guest), len(host)) {
		if guest[i] == host[i] {
			continue
		}
		if i > 0 && question(guest[i]) != question(host[i]) {
			t.Fatalf("after %q: %q, want %q", host[i-1], guest[i], host[i])
		}
		if deviates(guest[i]) {
			known++
			continue
		}
		t.Errorf("%s\nwant %s", guest[i], host[i])
	}
	t.Logf("%d answers, %d known to deviate", len(host), known)
}

// question is an answer's line without the answer.
func question(line string) string {
	parts := strings.SplitN(line, ": ", 3)
	return strings.Join(parts[:min(2, len(parts))], ": ")
}

func deviates(line string) bool {
	for _, d := range fileDeviations {
		if regexp.MustCompile(d.guest).MatchString(line) {
			return true
		}
	}
	return false
}
