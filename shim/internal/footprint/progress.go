package footprint

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Progress is what the VMM and all that it has started have run so far, and whether any of their threads would run now,
// had it a processor, or does.
func Progress(vmm int) (ran time.Duration, willing bool) {
	for _, pid := range family(vmm) {
		t, _ := cpuTime(pid) // one that has just ended
		ran += t
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, path := range tasks {
			text, _ := os.ReadFile(path)
			// The name may have any characters in it.
			if _, rest, found := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " "); found {
				willing = willing || strings.HasPrefix(rest, "R")
			}
		}
	}
	return ran, willing
}
