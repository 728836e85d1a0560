package guest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// describeProcesses lists what runs, for the one question a timeout leaves: what did it wait for?
// Kernel threads are left out. A process that vanishes meanwhile is not worth an error.
func describeProcesses(proc string) string {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return fmt.Sprintf("list processes: %v\n", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	var out strings.Builder
	fmt.Fprintf(&out, "%7s %7s %s %-24s %s\n", "PID", "PPID", "S", "WAITS IN", "COMMAND")
	for _, pid := range pids {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		state, parent, ok := readStat(filepath.Join(dir, "stat"))
		command := readCommand(filepath.Join(dir, "cmdline"))
		if !ok || command == "" {
			continue
		}
		place, err := os.ReadFile(filepath.Join(dir, "wchan"))
		if err != nil || string(place) == "0" {
			place = []byte("-")
		}
		fmt.Fprintf(&out, "%7d %7s %s %-24s %s\n", pid, parent, state, place, command)
	}
	return out.String()
}

// readStat takes the fields after the name, which may itself hold spaces and parentheses (proc(5)).
func readStat(path string) (state, parent string, ok bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", "", false
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 2 {
		return "", "", false
	}
	return fields[0], fields[1], true
}

// readCommand is empty for a kernel thread.
func readCommand(path string) string {
	const longest = 300
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line := strings.TrimSpace(strings.ReplaceAll(string(data), "\x00", " "))
	if len(line) > longest {
		line = line[:longest] + "…"
	}
	return line
}
