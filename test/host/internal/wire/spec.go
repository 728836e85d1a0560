package wire

// Where things are in the initramfs.
const (
	SpecFile  = "host.json"
	ModuleDir = "modules"
	InitFile  = "init"
)

// The cgroup layouts.
const (
	CgroupV1     = "v1"     // a mount for each v1 controller
	CgroupHybrid = "hybrid" // the same, and an empty v2 hierarchy at unified
	CgroupV2     = "v2"     // one v2 hierarchy with all controllers
)

// What runs as PID 1 once the host is set up.
const (
	InitNone    = "none"    // the test host's own init
	InitSystemd = "systemd" // the machine's systemd, the command being a service of it
)

// Spec is what the guest is to do. It travels in the initramfs.
type Spec struct {
	Command  []string `json:"command"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	Hostname string   `json:"hostname"`
	Cgroup   string   `json:"cgroup"`
	Init     string   `json:"init"`
	RootTag  string   `json:"root_tag"`
	Shares   []Share  `json:"shares,omitempty"`
	Boot     []Module `json:"boot"` // needed to reach the root
	More     []Module `json:"more"` // loaded once the root is there
	Stdin    bool     `json:"stdin,omitempty"`
	Terminal *Winsize `json:"terminal,omitempty"` // the command gets a terminal of this size
	Verbose  bool     `json:"verbose,omitempty"`
}

// Share is a directory of the machine in the guest.
type Share struct {
	Tag        string `json:"tag"`
	Mountpoint string `json:"mountpoint"`
	Writable   bool   `json:"writable,omitempty"`
}

// Module is a kernel module in the initramfs.
type Module struct {
	File     string `json:"file"` // below ModuleDir
	Required bool   `json:"required,omitempty"`
}
