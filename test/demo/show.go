package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/console"

	"github.com/huskvm/husk/test/rig"
)

// everything is the demo, from the first line to the last.
func (s *show) everything() {
	s.kernel()

	fmt.Print("\nThe exit status is true:\n")
	s.run("sh -c 'exit 42'", status(42, ""), "sh", "-c", "exit 42")
	s.run("true", status(0, ""), "true")
	s.run("nosuch", status(127, `exec: "nosuch": executable file not found in $PATH`), "nosuch")
	s.run("/etc (a directory)", status(126, "is a directory"), "/etc")
	s.run("/srv/not-executable (mode 644)", status(126, "permission denied"), "/srv/not-executable")
	s.run(`sh -c 'sh -c "kill -TERM \$\$"; exit $?'`, status(143, ""), "sh", "-c", `sh -c "kill -TERM \$\$"; exit $?`)
	s.run(`sh -c 'kill -KILL $$; exit 7' (PID 1 is immune)`, status(7, ""), "sh", "-c", "kill -KILL $$; exit 7")

	fmt.Print("\nStreams arrive whole:\n")
	s.stdin()
	s.run("sh -c 'echo out; echo err >&2'", func(r rig.Result) (string, bool) {
		return fmt.Sprintf("stdout %q, stderr %q", r.Stdout, r.Stderr), r.Stdout == "out\n" && r.Stderr == "err\n"
	}, "sh", "-c", "echo out; echo err >&2")
	s.run("20 MiB of stdout", func(r rig.Result) (string, bool) {
		sum := sha256.Sum256([]byte(r.Stdout))
		digest := hex.EncodeToString(sum[:])
		return fmt.Sprintf("%d bytes, sha256 %.12s… here and %.12s… there", len(r.Stdout), digest, r.Stderr),
			len(r.Stdout) == 20<<20 && strings.HasPrefix(r.Stderr, digest)
	}, "sh", "-c", "dd if=/dev/urandom of=/tmp/f bs=1M count=20 2>/dev/null; sha256sum /tmp/f >&2; cat /tmp/f")
	s.terminal()

	fmt.Print("\nA running container:\n")
	s.running()

	s.timeline()
	s.sizes()
}

func (s *show) kernel() {
	host, err := exec.Command("uname", "-r").Output()
	if err != nil {
		s.say("uname -r", err.Error(), false)
		return
	}
	fmt.Print("A container with a kernel of its own:\n")
	s.run("uname -r", func(r rig.Result) (string, bool) {
		guest := strings.TrimSpace(r.Stdout)
		return fmt.Sprintf("%s in the container, %s on the host", guest, strings.TrimSpace(string(host))),
			strings.HasSuffix(guest, "-husk") && r.Status == 0
	}, "uname", "-r")
}

func (s *show) stdin() {
	cmd := s.rig.Ctr(s.ctx, rig.RunArgs("demo-stdin", nil, "cat")...)
	cmd.Stdin = strings.NewReader("hello\n")
	res, err := rig.Exec(cmd)
	s.say("echo hello | ctr run … cat", fmt.Sprintf("%q", res.Stdout), err == nil && res.Stdout == "hello\n" && res.Status == 0)
}

// terminal gives ctr a terminal of 91 by 37, as a user has one.
func (s *show) terminal() {
	const what = "ctr run -t, in a terminal of 37 rows and 91 columns"
	pty, slave, err := console.NewPty()
	if err != nil {
		s.say(what, err.Error(), false)
		return
	}
	defer pty.Close()
	tty, err := os.OpenFile(slave, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		s.say(what, err.Error(), false)
		return
	}
	if err := pty.Resize(console.WinSize{Width: 91, Height: 37}); err != nil {
		s.say(what, err.Error(), false)
		return
	}
	script := `for i in $(seq 100); do [ "$(stty size)" = "37 91" ] && break; sleep 0.1; done; stty size`
	cmd := s.rig.Ctr(s.ctx, rig.RunArgs("demo-tty", []string{"-t"}, "sh", "-c", script)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	err = cmd.Start()
	_ = tty.Close()
	if err != nil {
		s.say(what, err.Error(), false)
		return
	}
	var out bytes.Buffer
	_, _ = io.Copy(&out, pty) // ends with EIO when the last one who has the terminal is gone
	err = cmd.Wait()
	s.say(what, fmt.Sprintf("stty size: %s", strings.TrimSpace(out.String())), err == nil && strings.Contains(out.String(), "37 91"))
}

// running execs into a container, and ends two with signals.
func (s *show) running() {
	for _, c := range []struct {
		signal string
		want   int
		exec   bool
	}{{"SIGTERM", 33, true}, {"SIGKILL", 137, false}} {
		id := "demo-" + strings.ToLower(c.signal)
		done := make(chan rig.Result, 1)
		go func() {
			res, err := s.rig.Run(s.ctx, id, nil, "sh", "-c", "trap 'exit 33' TERM; touch /tmp/ready; sleep 1000 & wait")
			if err != nil {
				res.Stderr += err.Error()
			}
			done <- res
		}()
		if !s.until(func() bool {
			return s.rig.Ctr(s.ctx, "task", "exec", "--exec-id", "ready", id, "test", "-e", "/tmp/ready").Run() == nil
		}) {
			s.say(id, "did not start", false)
			continue
		}
		if c.exec {
			res, err := rig.Exec(s.rig.Ctr(s.ctx, "task", "exec", "--exec-id", "e1", id, "sh", "-c", "hostname; exit 21"))
			s.say("ctr task exec … sh -c 'hostname; exit 21'", fmt.Sprintf("→ %d", res.Status), err == nil && res.Status == 21)
		}
		err := s.rig.Ctr(s.ctx, "task", "kill", "-s", c.signal, id).Run()
		what := "ctr task kill -s " + c.signal
		if c.exec {
			what += " (its trap exits with 33)"
		}
		res := <-done
		s.say(what, fmt.Sprint("→ ", res.Status), err == nil && res.Status == c.want)
	}
}

// until waits for a condition, for a minute at most.
func (s *show) until(ok func() bool) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

// timeline prints the boot marks of the last start.
func (s *show) timeline() {
	files, err := filepath.Glob(filepath.Join(s.dir, "timeline", "*"))
	if err != nil || len(files) == 0 {
		s.say("boot timeline", "no timeline was written", false)
		return
	}
	out, err := exec.Command(filepath.Join(s.bin, "husk"), "timeline", files[len(files)-1]).CombinedOutput()
	fmt.Printf("\nOne start, step by step:\n%s", out)
	s.say("boot timeline", fmt.Sprintf("of %d starts", len(files)), err == nil && strings.Contains(string(out), "agent"))
}

func (s *show) sizes() {
	fmt.Print("\nSizes:\n")
	for _, name := range []string{"husk-kernel", "husk-initramfs", "husk-vmm", "containerd-shim-husk-v2", "husk"} {
		info, err := os.Stat(filepath.Join(s.bin, name))
		if err != nil {
			s.say(name, err.Error(), false)
			continue
		}
		fmt.Printf("      %-58s %.1f MiB\n", name, float64(info.Size())/(1<<20))
	}
}
