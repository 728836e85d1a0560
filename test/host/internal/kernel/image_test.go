package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestNewestKernelIsTheHighestVersionOfTheFullFlavour(t *testing.T) {
	tests := map[string]struct {
		files []string
		want  string
	}{
		"one":                         {[]string{"vmlinuz-6.1.0-9-amd64"}, "6.1.0-9-amd64"},
		"numbers are not text":        {[]string{"vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64"}, "6.1.0-10-amd64"},
		"major before build":          {[]string{"vmlinuz-6.12.3-amd64", "vmlinuz-6.1.0-99-amd64"}, "6.12.3-amd64"},
		"cloud and rt are passed":     {[]string{"vmlinuz-6.1.0-1-amd64", "vmlinuz-6.1.0-5-cloud-amd64", "vmlinuz-6.1.0-6-rt-amd64"}, "6.1.0-1-amd64"},
		"other architectures as well": {[]string{"vmlinuz-6.1.0-1-amd64", "vmlinuz-6.9.0-1-arm64"}, "6.1.0-1-amd64"},
		"a backport is newer":         {[]string{"vmlinuz-6.1.0-30-amd64", "vmlinuz-6.12.9+bpo-amd64"}, "6.12.9+bpo-amd64"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, file := range test.files {
				write(t, filepath.Join(dir, file), "")
			}
			got, err := Newest(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got.Release != test.want || got.Path != filepath.Join(dir, "vmlinuz-"+test.want) {
				t.Errorf("got %+v, want %s", got, test.want)
			}
		})
	}
}

func TestMissingKernelIsAnErrorThatNamesThePackage(t *testing.T) {
	_, err := Newest(t.TempDir())
	if !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
}

func TestKernelOfUnknownReleaseIsRefused(t *testing.T) {
	if _, err := At("/tmp/bzImage"); err == nil {
		t.Error("a kernel without a release in its name was taken")
	}
	if image, err := At("/tmp/vmlinuz-6.1.0-1-amd64"); err != nil || image.Release != "6.1.0-1-amd64" {
		t.Errorf("got %+v, %v", image, err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
