package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

type fileDeviation struct{ guest, reason string }

// noACLs is one of shared directories.
var noACLs = fileDeviation{`^acl: `, "the guest's kernel has no ACLs on submounts"}

// fileDeviations are where a guest's answer is not the host's, with the reason: docs/filesystem.md explains them.
var fileDeviations = []fileDeviation{
	{`^open: ioctl for flags: ENOTTY$`, "no ioctl reaches the host"},
	{`^mknod: (null|disk): EPERM ENOENT `, "a device of the host's is not for a guest to make"},
	{`^xattr: (symlink|fifo) (trusted|security)\.a: EPERM ENODATA $`, "their place on the host is below user., which only files and directories have"},
	{`^xattr: (symlink|fifo) lists: \[\]$`, "the same"},
	{`^xattr: (symlink|fifo) removes: EPERM EPERM EPERM \[\]$`, "the same"},
	{`^fallocate: (collapse|insert) .*: ENOTSUP `, "the guest's kernel has neither"},
	{`^fallocate: (collapse|insert) .* charts: `, "the same"},
	{`^set-id: \d+ \w+ changes no owner: ok `, "the guest's kernel takes it for nothing to do"},
	{`^times: chown to nobody else: ok file false false `, "the same"},
	{`^set-id: \d+ root allocates: ok 757$`, "who allocates is not told, and counts as without CAP_FSETID"},
	{`^set-id: (2745|6666) .*: ok 2\d\d\d$`, "FUSE takes set-group-ID away only from what the group may execute"},
}

// What programs do to files has the results that it has on the host, in a container's root and in a directory that is
// shared with the guest.
func TestSharedFilesAnswerAsTheHostsDo(t *testing.T) {
	if *posix == "" {
		t.Skip("no test program: make bin/test/posix, and give -posix")
	}
	want := answersOfTheHost(t)
	run := func(t *testing.T, root, dir string, flags ...string) []string {
		t.Helper()
		args := []string{"run", "--rm", "--runtime", rig.Runtime, "--rootfs", "--privileged", "--allow-new-privs", bindFlag(*posix, "/posix", "ro")}
		res, err := rig.Exec(shared.Ctr(testContext(t), append(append(args, flags...), root, newID(t), "/posix", dir)...))
		if err != nil {
			t.Fatal(err)
		}
		if res.Status != 0 {
			t.Fatalf("status %d after %d lines: %s", res.Status, strings.Count(res.Stdout, "\n"), res.Stderr)
		}
		return strings.Split(res.Stdout, "\n")
	}
	t.Run("root", func(t *testing.T) {
		root := rootfs(t)
		if err := os.Mkdir(filepath.Join(root, "files"), 0o755); err != nil {
			t.Fatal(err)
		}
		compareAnswers(t, run(t, root, "/files"), want, fileDeviations)
	})
	for _, dir := range []struct {
		name, options string
		deviations    []fileDeviation
	}{
		{"shared directory", "rw", append(fileDeviations, noACLs)},
		{"shared directory with ACLs", "rw:acl", fileDeviations},
	} {
		t.Run(dir.name, func(t *testing.T) {
			guest := t.TempDir()
			answers := run(t, rootfs(t), "/files", bindFlag(guest, "/files", dir.options))
			compareAnswers(t, answers, want, dir.deviations)
			// What a guest has made, the host can remove.
			if err := os.RemoveAll(guest); err != nil {
				t.Error(err)
			}
		})
	}
}

func answersOfTheHost(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	// Users other than root must get there.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(*posix, dir).Output()
	if err != nil {
		t.Fatalf("on the host: %v", err)
	}
	return strings.Split(string(out), "\n")
}

func compareAnswers(t *testing.T, guest, host []string, deviations []fileDeviation) {
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
		if deviates(guest[i], deviations) {
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

func deviates(line string, deviations []fileDeviation) bool {
	for _, d := range deviations {
		if regexp.MustCompile(d.guest).MatchString(line) {
			return true
		}
	}
	return false
}
