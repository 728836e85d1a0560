// Package kernel finds the distribution's kernel that the test host boots, and its modules in the order in which
// they must be loaded (modules.dep(5)).
package kernel

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrNone says that no usable kernel is installed.
var ErrNone = errors.New("no Debian amd64 kernel; install linux-image-amd64")

// Image is an installed kernel.
type Image struct {
	Path    string // the bzImage
	Release string // what uname -r says once it runs, and the name of its module directory
}

const imagePrefix = "vmlinuz-"

// Newest returns the newest kernel in dir (usually /boot). The cloud flavour is passed over: it lacks 9p.
func Newest(dir string) (Image, error) {
	paths, err := filepath.Glob(filepath.Join(dir, imagePrefix+"*-amd64"))
	if err != nil {
		return Image{}, fmt.Errorf("look for kernels in %s: %w", dir, err)
	}
	var best Image
	for _, path := range paths {
		release := strings.TrimPrefix(filepath.Base(path), imagePrefix)
		if strings.Contains(release, "-cloud-") || strings.Contains(release, "-rt-") {
			continue
		}
		if best.Path == "" || compareReleases(release, best.Release) > 0 {
			best = Image{Path: path, Release: release}
		}
	}
	if best.Path == "" {
		return Image{}, fmt.Errorf("look for kernels in %s: %w", dir, ErrNone)
	}
	return best, nil
}

// At returns the kernel at path, whose name must say its release as in /boot.
func At(path string) (Image, error) {
	release, ok := strings.CutPrefix(filepath.Base(path), imagePrefix)
	if !ok || release == "" {
		return Image{}, fmt.Errorf("take kernel %s: its name is not %s<release>, so its modules can't be found", path, imagePrefix)
	}
	return Image{Path: path, Release: release}, nil
}

// compareReleases orders 6.1.0-9 before 6.1.0-10: numbers count as numbers.
func compareReleases(a, b string) int {
	for a != "" && b != "" {
		numA, restA := leadingNumber(a)
		numB, restB := leadingNumber(b)
		if restA != a && restB != b {
			if numA != numB {
				return sign(numA - numB)
			}
			a, b = restA, restB
			continue
		}
		if a[0] != b[0] {
			return sign(int(a[0]) - int(b[0]))
		}
		a, b = a[1:], b[1:]
	}
	return sign(len(a) - len(b))
}

func leadingNumber(s string) (int, string) {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(s)
	}
	n, err := strconv.Atoi(s[:end])
	if err != nil {
		return 0, s
	}
	return n, s[end:]
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}
