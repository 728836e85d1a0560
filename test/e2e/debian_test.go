package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/huskvm/husk/test/rig"
)

// debianImage is what scripts/debian.sh makes.
const debianImage = "husk.test/debian:latest"

var importDebian = sync.OnceValues(func() ([]byte, error) {
	return shared.Ctr(context.Background(), "image", "import", *debianTar).CombinedOutput()
})

// box is a container of the Debian image that commands are executed in.
type box struct {
	id    string
	execs int
	mu    sync.Mutex
}

// debian starts a box, for the rest of the test. Without an image the test is skipped. flags are ctr run's.
func debian(t *testing.T, flags ...string) *box {
	t.Helper()
	return debianInit(t, flags, "sleep", "infinity")
}

// debianInit is debian with another first process.
func debianInit(t *testing.T, flags []string, args ...string) *box {
	t.Helper()
	needDebian(t)
	if out, err := importDebian(); err != nil {
		t.Fatalf("import %s: %v: %s", *debianTar, err, out)
	}
	b := &box{id: newID(t)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		_ = shared.Ctr(ctx, "task", "rm", "-f", b.id).Run()
		_ = shared.Ctr(ctx, "container", "rm", b.id).Run()
	})
	run := append([]string{"run", "--detach", "--runtime", rig.Runtime}, flags...)
	ctr(t, append(append(run, debianImage, b.id), args...)...)
	return b
}

// needDebian skips the test where there is no image.
func needDebian(t *testing.T) {
	t.Helper()
	if *debianTar == "" {
		t.Skip("no Debian image: make bin/test/debian.tar, and give -debian")
	}
}

// try executes a shell script in the box.
func (b *box) try(t *testing.T, script string) rig.Result {
	t.Helper()
	b.mu.Lock()
	b.execs++
	id := fmt.Sprintf("x%d", b.execs)
	b.mu.Unlock()
	res, err := rig.Exec(shared.Ctr(testContext(t), "task", "exec", "--exec-id", id, b.id, "sh", "-c", script))
	if err != nil {
		t.Error(err)
	}
	return res
}

// run is try of what must succeed, and returns what it printed.
func (b *box) run(t *testing.T, script string) string {
	t.Helper()
	res := b.try(t, "set -e\n"+script)
	if res.Status != 0 {
		t.Errorf("status %d of\n%s\n%s%s", res.Status, script, res.Stdout, res.Stderr)
	}
	return res.Stdout
}

// expect is run of what must print want.
func (b *box) expect(t *testing.T, script, want string) {
	t.Helper()
	if got := b.run(t, script); got != want {
		t.Errorf("%s\nprinted %q, want %q", script, got, want)
	}
}

// bindFlag is ctr's flag for a directory of the host.
func bindFlag(host, guest, mode string) string {
	return fmt.Sprintf("--mount=type=bind,src=%s,dst=%s,options=rbind:%s", host, guest, mode)
}

// A package manager unpacks beside the old files and renames, links backups, changes owners and then modes, syncs
// all, and runs scripts. What is installed has a set-group-ID program of a new group, and alternatives.
func TestDebianPackagesInstallAndGo(t *testing.T) {
	b := debian(t, bindFlag(*debianTar+".packages", "/srv/packages", "ro"))
	b.run(t, `
		rm -f /etc/apt/sources.list.d/*
		echo 'deb [trusted=yes] file:/srv/packages ./' >/etc/apt/sources.list
		export DEBIAN_FRONTEND=noninteractive
		apt-get -qq update
		apt-get -qq -y --no-install-recommends install cron vim-tiny </dev/null`)
	b.expect(t, "dpkg-query -W -f '${Package} ${Status}\n' cron vim-tiny",
		"cron install ok installed\nvim-tiny install ok installed\n")
	// What the image leaves out is missing from packages, too.
	b.expect(t, "dpkg --verify cron cron-daemon-common sensible-utils vim-common vim-tiny | grep -v -e /usr/share/doc/ -e /usr/share/man/ -e /usr/share/locale/ || true", "")
	b.expect(t, "stat -c '%a %U %G' /usr/bin/crontab", "2755 root crontab\n")
	b.expect(t, "readlink -f /usr/bin/vi; vi --version | head -1 | cut -c 1-3", "/usr/bin/vim.tiny\nVIM\n")
	b.run(t, "apt-get -qq -y purge cron </dev/null; test ! -e /usr/bin/crontab; dpkg --audit")
}

// The files are in a hundred directories, each with a line of its own.
func TestGitClonesTenThousandFiles(t *testing.T) {
	needDebian(t)
	origin := t.TempDir()
	for i := range 10_000 {
		dir := filepath.Join(origin, fmt.Sprintf("d%02d", i%100))
		if i < 100 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), fmt.Appendf(nil, "this is %d\n", i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const sums = `find . -name .git -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`
	out, err := exec.Command("sh", "-ec", `cd "$0"; git init -q; git add .
		git -c user.name=e2e -c user.email=e2e commit -qm all; git repack -qad; git prune-packed; `+sums, origin).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := debian(t, bindFlag(origin, "/srv/origin", "ro"))
	b.run(t, "git -c safe.directory='*' clone -q --no-hardlinks file:///srv/origin /root/clone")
	b.expect(t, "cd /root/clone; git status --porcelain; git fsck; git ls-files | wc -l", "10000\n")
	b.expect(t, "cd /root/clone; "+sums, string(out))
	b.expect(t, "cd /root/clone; echo more >>d42/f42; git rm -qr d07; git status --porcelain | grep -c ^D; git diff --stat | grep f42",
		"100\n d42/f42 | 1 +\n")
}

// Four writers at a time, each a transaction a line, in both of sqlite's ways to keep a journal; a second VM finds
// all of it.
func TestSqliteKeepsWhatConcurrentExecsWrite(t *testing.T) {
	const writers, each = 4, 100
	dir := t.TempDir()
	b := debian(t, bindFlag(dir, "/srv/db", "rw"))
	for _, mode := range []string{"wal", "delete"} {
		db := "/srv/db/" + mode
		b.expect(t, fmt.Sprintf("sqlite3 %s 'PRAGMA journal_mode=%s; CREATE TABLE t(who, n); CREATE TABLE c(n); INSERT INTO c VALUES(0)'", db, mode), mode+"\n")
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				b.run(t, fmt.Sprintf(`for i in $(seq %d); do
					echo "BEGIN IMMEDIATE; INSERT INTO t VALUES(%d, $i); UPDATE c SET n = n + 1; COMMIT;"
				done | sqlite3 -bail -cmd '.timeout 60000' %s`, each, w, db))
			})
		}
		wg.Wait()
	}
	const ask = `for m in wal delete; do
		sqlite3 /srv/db/$m 'SELECT count(*), count(DISTINCT who || "/" || n) FROM t; SELECT n FROM c; PRAGMA integrity_check'
	done`
	want := strings.Repeat(fmt.Sprintf("%d|%[1]d\n%[1]d\nok\n", writers*each), 2)
	b.expect(t, ask, want)
	debian(t, bindFlag(dir, "/srv/db", "rw")).expect(t, ask, want)
}
