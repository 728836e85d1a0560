package sandbox

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	agentv1 "github.com/huskvm/husk/proto/husk/agent/v1"
	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/config"
	"github.com/huskvm/husk/shim/internal/hostnet"
)

// docker configures the network once it knows the task's pid, between Create and Start. This is its namespace.
const docker = "moby"

// connectNetwork connects the VM with the network namespace that the specification names. With a new one asked for, it
// is the VMM's own: hooks, which are told the VMM's pid, may have put interfaces there by now, and docker will when this
// is over. Without any, which is the host's network, the guest has one in user mode.
func (v *vm) connectNetwork(spec *specs.Spec, namespace string, c *config.Config) (err error) {
	path, asked := bundle.NetworkNamespace(spec)
	v.netns = path
	key := hostnet.KeyOf(string(v.dir))
	switch {
	case !asked && c.HostNetwork == config.HostNetworkNone:
		return nil
	case !asked:
		err = v.connectUser(c.VMM)
	case path != "":
		v.network, err = hostnet.Connect(path, key)
	case spec.Hooks != nil:
		v.network, err = hostnet.Connect(v.ownNetns(), key)
	}
	if err == nil && asked && path == "" && namespace == docker && (v.network == nil || len(v.network.Taps) == 0) {
		v.network, err = hostnet.Spare(v.ownNetns(), key)
		v.spare = true
	}
	if err != nil {
		return fmt.Errorf("connect the VM: %w", err)
	}
	v.logNotes()
	return nil
}

// ownNetns is the path of the VMM's network namespace.
func (v *vm) ownNetns() string { return fmt.Sprintf("/proc/%d/ns/net", v.machine.PID()) }

func (v *vm) logNotes() {
	if v.network != nil {
		for _, note := range v.network.Notes {
			log.L.Info(note)
		}
	}
}

// connectLate connects the spare device, before the sandbox's first process starts.
func (v *vm) connectLate(ctx context.Context) (err error) {
	if !v.spare {
		return nil
	}
	if v.network, err = hostnet.ConnectSpare(v.ownNetns(), hostnet.KeyOf(string(v.dir))); err != nil {
		return fmt.Errorf("connect the VM: %w", err)
	}
	v.logNotes()
	return v.configureNetwork(ctx)
}

// donateNICs gives the VMM its taps, which are its alone from then on.
func (v *vm) donateNICs() (nics []*vmmv1.NIC, err error) {
	if v.network == nil {
		return nil, nil
	}
	defer v.network.Close()
	for _, tap := range v.network.Taps {
		token, err := v.machine.Donate(tap.File)
		if err != nil {
			return nil, err
		}
		nics = append(nics, &vmmv1.NIC{Tap: token, Mac: tap.MAC, Mtu: uint32(tap.MTU)})
	}
	return nics, nil
}

// configureNetwork tells the guest what its interfaces are to be.
func (v *vm) configureNetwork(ctx context.Context) error {
	if v.network == nil || len(v.network.Config.Interfaces) == 0 {
		return nil
	}
	if _, err := v.agent.ConfigureNetwork(ctx, v.network.Config); err != nil {
		var names []string
		for _, i := range v.network.Config.Interfaces {
			names = append(names, i.Name)
		}
		return fmt.Errorf("give the guest %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// countNetwork is what the sandbox has received and sent; none is known once the namespace is gone.
func (v *vm) countNetwork() []*agentv1.StatsResponse_Network {
	list, err := v.network.Count(cmp.Or(v.netns, v.ownNetns()))
	if err != nil {
		log.L.WithError(err).Debug("no statistics of the network")
	}
	return list
}

// disconnectNetwork leaves nothing in the namespace. The VMM is gone, and its taps with it.
func (v *vm) disconnectNetwork() error {
	v.network.Close()
	return hostnet.Disconnect(v.netns, hostnet.KeyOf(string(v.dir)))
}
