package stage

import (
	"fmt"
	"strings"
)

// environment is the program's: of a variable that is given twice the last value counts, and is the only one, since
// programs disagree on which they take. HOME is added where it is missing or empty.
func environment(list []string, home string) ([]string, error) {
	at := make(map[string]int, len(list)+1)
	var out []string
	for _, e := range list {
		key, _, ok := strings.Cut(e, "=")
		if !ok || key == "" || strings.Contains(e, "\x00") {
			return nil, fmt.Errorf("process.env: %q is not of the form NAME=value", e)
		}
		if i, known := at[key]; known {
			out[i] = e
			continue
		}
		at[key] = len(out)
		out = append(out, e)
	}
	if i, known := at["HOME"]; !known {
		out = append(out, "HOME="+home)
	} else if out[i] == "HOME=" {
		out[i] += home
	}
	return out, nil
}

// environ is the value of a variable.
func environ(env []string, key string) string {
	for _, e := range env {
		if k, v, _ := strings.Cut(e, "="); k == key {
			return v
		}
	}
	return ""
}
