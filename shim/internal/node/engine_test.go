package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	version2 = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "example/pause"
`
	withRunc = version2 + `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = true`
	version3 = `version = 3
imports = ['/etc/containerd/conf.d/*.toml']
[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false
`
)

func TestContainerdsConfiguration(t *testing.T) {
	for _, test := range []struct {
		name, config string
		dropIn       bool
		has          []string // in whichever file is husk's
		not          string
	}{
		{"none", "", false, []string{"version = 2\n", "runtimes.runc]", "runtimes.husk]"}, "husk-sandbox"},
		{"version 2", version2, false, []string{"runtimes.runc]", "runtimes.husk]", "pod_annotations"}, "husk-sandbox"},
		{"version 2 with runc", withRunc, false, []string{"runtimes.husk]"}, "runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n# end"},
		{"version 3", version3, true, []string{"version = 3", "runtimes.husk]", "sandboxer = 'shim'"}, begin},
		{"version 3, relative", strings.Replace(version3, "/etc/containerd/", "", 1), true, []string{"runtimes.husk]"}, begin},
		{"version 3 without imports", "version = 3\n", false, []string{"runtimes.husk]", "sandboxer = 'shim'"}, "version = 3\n\n# RuntimeClass"},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{}
			if test.config != "" {
				files[containerdConfig] = test.config
			}
			n := host(t, files)
			before := n.tree(t)
			must(t, n.Install(build(t, "1")))
			got := text(t, n.path(containerdDropIn))
			if !test.dropIn {
				if got != "" {
					t.Errorf("a drop-in: %s", got)
				}
				got = text(t, n.path(containerdConfig))
			} else if main := text(t, n.path(containerdConfig)); main != test.config {
				t.Errorf("containerd's own file: %s", main)
			}
			for _, want := range test.has {
				if strings.Count(got, want) != 1 {
					t.Errorf("%q is %d times in\n%s", want, strings.Count(got, want), got)
				}
			}
			if strings.Contains(got, test.not) {
				t.Errorf("%q is in\n%s", test.not, got)
			}
			dump(t, n)
			// Whoever edits the file afterwards keeps what they wrote.
			extra := ""
			if !test.dropIn && strings.HasSuffix(test.config, "\n") {
				extra = "\n# somebody's\n"
				write(t, n.path(containerdConfig), got+extra)
			}
			must(t, n.Remove())
			if left := n.tree(t); strings.Join(left, "\n") != strings.Join(before, "\n") {
				t.Errorf("left:\n%s", strings.Join(left, "\n"))
			}
			if now := text(t, n.path(containerdConfig)); strings.TrimSpace(now) != strings.TrimSpace(test.config+extra) {
				t.Errorf("the configuration was\n%q\nand is\n%q", test.config, now)
			}
		})
	}
}

// dump asks containerd itself, where there is one that knows the version, what it makes of a configuration.
func dump(t *testing.T, n *Node) {
	t.Helper()
	config := text(t, n.path(containerdConfig))
	containerd, err := exec.LookPath("containerd")
	if err != nil || strings.Contains(config, "version = 3") {
		return
	}
	out, err := exec.Command(containerd, "--config", n.path(containerdConfig), "config", "dump").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, runtime := range []string{"husk", "runc"} {
		if !strings.Contains(string(out), "runtimes."+runtime+"]") {
			t.Errorf("containerd does not have %s in\n%s", runtime, out)
		}
	}
}

func TestConfigurationsThatAreLeftAlone(t *testing.T) {
	for name, test := range map[string]struct{ config, err string }{
		"husk is there":     {"version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.husk]\n  runtime_type = \"io.containerd.husk.v2\"\n", ""},
		"version 1":         {"[plugins.cri]\n", "has version 1, known are 2 and 3: `containerd config migrate`"},
		"no TOML":           {"version = \n", "parse /etc/containerd/config.toml"},
		"half a block":      {"version = 2\n" + begin, "the end of husk's part is missing"},
		"an inline runtime": {"version = 2\nplugins = {}\n", "cannot be appended"},
	} {
		t.Run(name, func(t *testing.T) {
			n := host(t, map[string]string{containerdConfig: test.config})
			err := n.Install(build(t, "1"))
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%v", err)
			}
			if now := text(t, n.path(containerdConfig)); now != test.config {
				t.Errorf("the configuration is now\n%s", now)
			}
		})
	}
}

func TestAnotherPrefixIsNamedToTheEngine(t *testing.T) {
	n := host(t, map[string]string{containerdConfig: version3})
	n.Prefix, n.Engine = "/opt/husk", []string{"containerd", "crio"}
	must(t, n.Install(build(t, "1")))
	const path = `runtime_path = "/opt/husk/bin/containerd-shim-husk-v2"`
	if got := text(t, n.path(containerdDropIn)); strings.Count(got, path) != 2 {
		t.Errorf("containerd has\n%s", got)
	}
	if got := text(t, n.path("/etc/crio/crio.conf.d/50-husk.conf")); strings.Count(got, path) != 1 {
		t.Errorf("CRI-O has\n%s", got)
	}
}

// systemd makes the host one whose systemd is a script, which writes down what it is asked and does as the files in
// /units say.
func systemd(t *testing.T, n *Node) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("chroot needs root")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("no busybox:", err)
	}
	write(t, n.path("bin/sh"), string(busybox))
	must(t, os.MkdirAll(n.path("run/systemd/system"), 0o755))
	write(t, n.path("units/containerd"), "")
	write(t, n.path("usr/bin/systemctl"), `#!/bin/sh
echo "$@" >>/calls
[ $1 != is-active ] || [ -e /units/$3 ]
`)
}

func TestAnEngineIsRestartedWhenItsConfigurationHasChanged(t *testing.T) {
	n := host(t, map[string]string{containerdConfig: withRunc})
	systemd(t, n)
	restarts := func(want int) {
		t.Helper()
		if got := strings.Count(text(t, n.path("calls")), "restart containerd"); got != want {
			t.Errorf("%d restarts, want %d", got, want)
		}
	}
	must(t, n.Install(build(t, "1")))
	restarts(1)
	must(t, n.Install(build(t, "2"))) // other programs, and the same configuration
	restarts(1)
	// A call that was killed before its restart.
	write(t, filepath.Join(n.lib(), "restart-containerd"), "")
	must(t, n.Install(build(t, "2")))
	restarts(2)
	must(t, n.Remove())
	restarts(3)
	must(t, os.Remove(n.path("units/containerd")))
	must(t, n.Install(build(t, "2"))) // it does not run
	restarts(3)
}

func TestAnEngineThatDoesNotComeUpGetsItsConfigurationBack(t *testing.T) {
	n := host(t, map[string]string{containerdConfig: "version = 2\n"})
	systemd(t, n)
	write(t, n.path("usr/bin/systemctl"), `#!/bin/sh
read -r now </state
case $1 in
is-active) [ $now = active ]; exit ;;
restart) now=active ;;
esac
while read -r line; do case $line in *runtimes.husk*) now=failed ;; esac; done </etc/containerd/config.toml
echo $now >/state
[ $now = active ]
`)
	write(t, n.path("state"), "active\n")
	err := n.Install(build(t, "1"))
	if err == nil || !strings.Contains(err.Error(), "its old configuration is back") {
		t.Errorf("%v", err)
	}
	if now := text(t, n.path(containerdConfig)); now != "version = 2\n" {
		t.Errorf("the configuration is\n%s", now)
	}
	if state := text(t, n.path("state")); state != "active\n" {
		t.Errorf("and containerd is %s", state)
	}
}
