package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/huskvm/husk/shim/internal/rundir"
	"github.com/huskvm/husk/shim/internal/sandbox"
	"github.com/huskvm/husk/shim/internal/task"
)

func list(h host, _ []string) error {
	dirs, err := rundir.All(h.root)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(h.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tSANDBOX\tSTATE\tVMM\tVCPUS\tMEMORY\tAGE\tCONTAINERS")
	for _, dir := range dirs {
		s, err := dir.Load()
		if err != nil {
			continue
		}
		age := "-"
		if !s.Started.IsZero() {
			age = time.Since(s.Started).Round(time.Second).String()
		}
		var names []string
		for _, c := range s.Containers {
			name := c.ID
			if c.Exit != nil {
				name += fmt.Sprintf(" (exited %d)", c.Exit.Status)
			}
			names = append(names, name)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%dMiB\t%s\t%s\n", s.Namespace, s.ID, life(dir, s), s.VMM.PID,
			s.VCPUs, s.Memory>>20, age, strings.Join(names, ", "))
	}
	return w.Flush()
}

// life says which of a sandbox's processes live.
func life(dir rundir.Dir, s rundir.State) string {
	if !dir.Served() {
		return "dead"
	}
	if now, err := rundir.Identify(s.VMM.PID); err != nil || now != s.VMM {
		return "no VM"
	}
	return "running"
}

func console(h host, args []string) error {
	if len(args) != 1 {
		return errors.New("give the id of a sandbox or container")
	}
	dir, _, err := h.find(args[0])
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", dir.Join(rundir.Socket))
	if err != nil {
		return fmt.Errorf("reach the sandbox's shim: %w", err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	text := new(wrapperspb.BytesValue)
	if err := client.Call(ctx, task.ConsoleService, "Console", new(emptypb.Empty), text); err != nil {
		return errgrpc.ToNative(err)
	}
	_, err = h.out.Write(text.Value)
	return err
}

func timeline(h host, args []string) error {
	if len(args) != 1 {
		return errors.New("give the id of a sandbox, or a timeline's file")
	}
	data, err := os.ReadFile(args[0])
	if errors.Is(err, fs.ErrNotExist) && !strings.Contains(args[0], "/") {
		dir, _, ferr := h.find(args[0])
		if ferr != nil {
			return ferr
		}
		data, err = os.ReadFile(dir.Join(rundir.Timeline))
	}
	if err != nil {
		return fmt.Errorf("read timeline: %w", err)
	}
	var t sandbox.Timeline
	if err := json.Unmarshal(data, &t); err != nil {
		return fmt.Errorf("parse timeline: %w", err)
	}
	w := tabwriter.NewWriter(h.out, 0, 4, 2, ' ', tabwriter.AlignRight)
	last := 0.0
	for _, e := range t.Marks {
		fmt.Fprintf(w, "%.3f ms\t+%.3f\t%s\t  %s\n", e.Milliseconds, e.Milliseconds-last, e.Source, e.Name)
		last = e.Milliseconds
	}
	return w.Flush()
}
