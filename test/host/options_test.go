package main

import (
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/huskvm/husk/test/host/internal/qemu"
)

func TestDefaults(t *testing.T) {
	o, err := parse([]string{"--", "sh", "-c", "true"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.cgroup != "v2" || o.init != "none" || o.memoryMiB != 4096 || o.cpus != 2 || o.accel != qemu.Auto || o.timeout != 10*time.Minute {
		t.Errorf("got %+v", o)
	}
	if diff := cmp.Diff([]string{"sh", "-c", "true"}, o.command); diff != "" {
		t.Error(diff)
	}
}

func TestFlags(t *testing.T) {
	t.Setenv("HUSK_PASSED_ON", "yes")
	dir := t.TempDir()
	o, err := parse([]string{
		"-cgroup", "hybrid", "-init", "systemd", "-append", "a=b c", "-memory", "1024", "-cpus", "4", "-accel", "tcg",
		"-timeout", "20m", "-dir", "/work", "-env", "K=V=W", "-env", "HUSK_PASSED_ON", "-env", "HUSK_NOT_SET",
		"-share", dir + ":out:/mnt/out:rw", "-share", dir + ":in:/mnt/in", "-v", "-timing", "e2e.test", "-test.v",
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := &options{
		command: []string{"e2e.test", "-test.v"}, dir: "/work", env: []string{"K=V=W", "HUSK_PASSED_ON=yes"},
		cgroup: "hybrid", init: "systemd", append: "a=b c", accel: qemu.TCG, memoryMiB: 1024, cpus: 4,
		shares: []share{
			{path: dir, tag: "out", mountpoint: "/mnt/out", writable: true},
			{path: dir, tag: "in", mountpoint: "/mnt/in"},
		},
		timeout: 20 * time.Minute, verbose: true, timing: true,
	}
	if diff := cmp.Diff(want, o, cmp.AllowUnexported(options{}, share{})); diff != "" {
		t.Errorf("options differ (-want +got):\n%s", diff)
	}
}

func TestInteractiveHasNoTimeoutUnlessGivenOne(t *testing.T) {
	for _, test := range []struct {
		args []string
		want time.Duration
	}{
		{[]string{"-interactive", "sh"}, 0},
		{[]string{"-interactive", "-timeout", "1m", "sh"}, time.Minute},
		{[]string{"-timeout", "0", "sh"}, 0},
	} {
		if o, err := parse(test.args, io.Discard); err != nil || o.timeout != test.want {
			t.Errorf("%v: got %v, %v", test.args, o.timeout, err)
		}
	}
}

func TestWrongUsageIsRefusedWithTheReason(t *testing.T) {
	dir := t.TempDir()
	for reason, args := range map[string][]string{
		"no command":           {"-v"},
		"cgroup layout \"v3\"": {"-cgroup", "v3", "true"},
		"init \"openrc\"":      {"-init", "openrc", "true"},
		"accelerator \"xen\"":  {"-accel", "xen", "true"},
		"too little":           {"-memory", "64", "true"},
		"processors":           {"-cpus", "0", "true"},
		"negative":             {"-timeout", "-1s", "true"},
		"no name":              {"-env", "=x", "true"},
		"not dir:tag":          {"-share", dir + ":x", "true"},
		"not absolute":         {"-share", dir + ":x:mnt", "true"},
		"no such file":         {"-share", dir + "/nosuch:x:/mnt", "true"},
		"1 to 31":              {"-share", dir + ":" + strings.Repeat("x", 32) + ":/mnt", "true"},
		"used twice":           {"-share", dir + ":x:/a", "-share", dir + ":x:/b", "true"},
		"reserved":             {"-share", dir + ":hostroot:/a", "true"},
	} {
		if _, err := parse(args, io.Discard); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%v: got %v, want %q", args, err, reason)
		}
	}
}

func TestHelpIsNoError(t *testing.T) {
	var out strings.Builder
	if _, err := parse([]string{"-help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{"-cgroup", "-share", "-interactive"} {
		if !strings.Contains(out.String(), name) {
			t.Errorf("the help does not mention %s", name)
		}
	}
}

func TestEnvironmentIsStatedAndCanBeOverridden(t *testing.T) {
	t.Setenv("PATH", "/caller/bin")
	t.Setenv("SECRET", "of the caller")
	env := environment([]string{"TMPDIR=/elsewhere", "K=1", "K=2"})
	for _, want := range []string{"PATH=/caller/bin", "TMPDIR=/elsewhere", "K=2"} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is not in %q", want, env)
		}
	}
	for _, kv := range env {
		if strings.HasPrefix(kv, "SECRET=") || kv == "K=1" {
			t.Errorf("%s is in the environment", kv)
		}
	}
}

func TestKernelCommandLine(t *testing.T) {
	words := func(args ...string) []string {
		o, err := parse(append(args, "true"), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(commandLine(o))
	}
	for _, test := range []struct {
		args []string
		want []string
		not  []string
	}{
		{nil, []string{"quiet", "panic=-1"}, []string{"systemd.unified_cgroup_hierarchy=1"}},
		{[]string{"-v"}, []string{"panic=-1"}, []string{"quiet"}},
		{[]string{"-append", "cgroup_no_v1=freezer x=y"}, []string{"cgroup_no_v1=freezer", "x=y"}, nil},
		{[]string{"-init", "systemd"}, []string{"systemd.unified_cgroup_hierarchy=1", "fstab=no"}, nil},
		{[]string{"-init", "systemd", "-cgroup", "hybrid"},
			[]string{"systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=0"}, nil},
		{[]string{"-init", "systemd", "-cgroup", "v1"},
			[]string{"systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1"}, nil},
	} {
		got := words(test.args...)
		for _, word := range test.want {
			if !slices.Contains(got, word) {
				t.Errorf("%v: no %s in %v", test.args, word, got)
			}
		}
		for _, word := range test.not {
			if slices.Contains(got, word) {
				t.Errorf("%v: %s is in %v", test.args, word, got)
			}
		}
	}
}
