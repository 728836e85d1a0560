package config

import "github.com/pelletier/go-toml/v2"

// Engine is what an engine's own table of a runtime's options may say beside husk's keys.
type Engine struct {
	SystemdCgroup bool   // cgroups are systemd's to make
	ShimCgroup    string // of the shim itself
}

// FromEngine takes out of a ConfigBody what is not husk's. containerd's CRI plugin passes on all options that
// its configuration has for a runtime other than runc, unless they name a file. What is no TOML is left for Load to name.
func FromEngine(body []byte) (rest []byte, e Engine) {
	table := map[string]any{}
	if toml.Unmarshal(body, &table) != nil {
		return body, e
	}
	all := len(table)
	if systemd, ok := table["SystemdCgroup"].(bool); ok {
		e.SystemdCgroup = systemd
		delete(table, "SystemdCgroup")
	}
	if cgroup, ok := table["ShimCgroup"].(string); ok {
		e.ShimCgroup = cgroup
		delete(table, "ShimCgroup")
	}
	delete(table, "TypeUrl") // which says what these options are
	if len(table) == all {
		return body, e // with its lines
	}
	rest, err := toml.Marshal(table)
	if err != nil {
		return body, e
	}
	return rest, e
}
