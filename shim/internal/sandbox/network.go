package sandbox

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	vmmv1 "github.com/huskvm/husk/proto/husk/vmm/v1"
	"github.com/huskvm/husk/shim/internal/bundle"
	"github.com/huskvm/husk/shim/internal/hostnet"
)

// connectNetwork connects the VM with the network namespace that the specification names. With a new one asked for, it
// is the VMM's own: hooks, which are told the VMM's pid, may have put interfaces there by now, and nobody else. Without
// any, which is the host's network, the guest has lo alone.
func (v *vm) connectNetwork(spec *specs.Spec) error {
	path, asked := bundle.NetworkNamespace(spec)
	v.netns = path
	if path == "" {
		if !asked || spec.Hooks == nil {
			return nil
		}
		path = fmt.Sprintf("/proc/%d/ns/net", v.machine.PID())
	}
	var err error
	if v.network, err = hostnet.Connect(path, hostnet.KeyOf(string(v.dir))); err != nil {
		return fmt.Errorf("connect the VM: %w", err)
	}
	for _, note := range v.network.Notes {
		log.L.WithField("netns", path).Info(note)
	}
	return nil
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

// disconnectNetwork leaves nothing in the namespace. The VMM is gone, and its taps with it.
func (v *vm) disconnectNetwork() error {
	v.network.Close()
	return hostnet.Disconnect(v.netns, hostnet.KeyOf(string(v.dir)))
}
