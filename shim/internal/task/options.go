package task

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/huskvm/husk/shim/internal/config"
)

// runtimeOptions are what husk takes from a runtime's options.
type runtimeOptions struct {
	path string // of the configuration
	body []byte // laid over it

	systemd    bool   // cgroups are systemd's to make
	shimCgroup string // of the shim itself
}

// readOptions accepts the generic options of a runtime, and runc's, of which what is said of cgroups applies to a VM.
func readOptions(a *anypb.Any) (runtimeOptions, error) {
	if a == nil || a.TypeUrl == "" {
		return runtimeOptions{}, nil
	}
	name := a.TypeUrl[strings.LastIndexByte(a.TypeUrl, '/')+1:]
	switch {
	case strings.HasSuffix(name, "runtimeoptions.v1.Options"):
		o := new(runtimeoptions.Options)
		if err := proto.Unmarshal(a.Value, o); err != nil {
			return runtimeOptions{}, fmt.Errorf("parse runtime options of type %s: %w: %w", a.TypeUrl, err, errdefs.ErrInvalidArgument)
		}
		body, engine := config.FromEngine(o.ConfigBody)
		return runtimeOptions{path: o.ConfigPath, body: body, systemd: engine.SystemdCgroup, shimCgroup: engine.ShimCgroup}, nil
	case strings.HasSuffix(name, "runc.v1.Options"):
		o := new(options.Options)
		if err := proto.Unmarshal(a.Value, o); err != nil {
			return runtimeOptions{}, fmt.Errorf("parse runtime options of type %s: %w: %w", a.TypeUrl, err, errdefs.ErrInvalidArgument)
		}
		return runtimeOptions{systemd: o.SystemdCgroup, shimCgroup: o.ShimCgroup}, nil
	case strings.HasSuffix(name, "containerd.linux.runc.CreateOptions"):
		return runtimeOptions{}, nil
	}
	return runtimeOptions{}, fmt.Errorf("runtime options of type %s are unknown: use runtimeoptions.v1.Options with husk's configuration as ConfigPath: %w",
		a.TypeUrl, errdefs.ErrInvalidArgument)
}
