package main

import (
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// manyFiles raises the limit of open files to the most that the kernel allows, whatever the engine's unit says: each
// inode of a shared directory that the guest remembers is one, and a source tree has tens of thousands.
func manyFiles(log *slog.Logger) {
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err == nil {
		var most uint64
		if most, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most})
		}
	}
	if err != nil {
		log.Warn("the guest can use few files: the limit of open files stays", "error", err)
	}
}
