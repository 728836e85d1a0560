package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
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
func (v *vm) connectNetwork(spec *specs.Spec, namespace string, p *plan) (err error) {
	c := p.config
	path, asked := bundle.NetworkNamespace(spec)
	v.netns = path
	v.late = asked && path == "" && namespace == docker
	queues := hostnet.Queues(int(p.size.VCPUs))
	spares := hostnet.Spares{Count: int(c.SpareInterfaces), First: v.late}
	switch {
	case !asked && c.HostNetwork == config.HostNetworkNone:
	case !asked:
		err = v.connectUser(c.VMM)
	case path != "":
		err = v.connectTo(path, queues, spares)
	case spec.Hooks != nil || v.late || spares.Count > 0:
		err = v.connectTo(v.ownNetns(), queues, spares)
	}
	if err != nil {
		return fmt.Errorf("connect the VM: %w", err)
	}
	return nil
}

// connectTo connects the VM with a network namespace, of which it will follow what changes from here on.
func (v *vm) connectTo(path string, queues int, spares hostnet.Spares) (err error) {
	key := hostnet.KeyOf(string(v.dir))
	if v.network, err = hostnet.Connect(path, key, queues, spares); err != nil {
		return err
	}
	logNotes(v.network.Notes)
	if len(v.network.Taps) == 0 {
		return nil
	}
	if v.follower, err = hostnet.Follow(path, key, v.network); err != nil {
		return err
	}
	v.onEnd(func() error {
		v.follower.Close()
		v.following.Wait()
		return nil
	})
	return nil
}

// ownNetns is the path of the VMM's network namespace.
func (v *vm) ownNetns() string { return fmt.Sprintf("/proc/%d/ns/net", v.machine.PID()) }

func logNotes(notes []string) {
	for _, note := range notes {
		log.L.Info(note)
	}
}

// connectLate connects what has come since Create, before the sandbox's first process starts.
func (v *vm) connectLate(ctx context.Context) error {
	if !v.late {
		return nil
	}
	if err := v.syncNetwork(ctx); err != nil {
		return fmt.Errorf("connect the VM: %w", err)
	}
	return nil
}

// followNetwork keeps the guest's network what its namespace's is, until the VM ends.
func (v *vm) followNetwork() {
	if v.follower == nil {
		return
	}
	v.following.Go(func() {
		said := ""
		for v.follower.Wait() {
			err := v.syncNetwork(v.ctx)
			if err != nil && v.ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				log.L.WithError(err).Warn("follow the network")
			}
			v.relayLateNames(v.ctx)
		}
	})
}

// syncNetwork tells the guest what has changed.
func (v *vm) syncNetwork(ctx context.Context) error {
	v.syncing.Lock()
	defer v.syncing.Unlock()
	request, notes, err := v.follower.Sync()
	logNotes(notes)
	if request == nil {
		return err
	}
	return errors.Join(err, v.tellNetwork(ctx, request))
}

// donateNICs gives the VMM its taps, which are its alone from then on.
func (v *vm) donateNICs() (nics []*vmmv1.NIC, err error) {
	if v.network == nil {
		return nil, nil
	}
	defer v.network.Close()
	for _, tap := range v.network.Taps {
		nic := &vmmv1.NIC{Mac: tap.MAC, Mtu: uint32(tap.MTU)}
		for _, queue := range tap.Files {
			token, err := v.machine.Donate(queue)
			if err != nil {
				return nil, err
			}
			nic.Taps = append(nic.Taps, token)
		}
		nics = append(nics, nic)
	}
	return nics, nil
}

// configureNetwork tells the guest what its interfaces are to be.
func (v *vm) configureNetwork(ctx context.Context) error {
	if v.network == nil || len(v.network.Config.Interfaces) == 0 {
		return nil
	}
	return v.tellNetwork(ctx, v.network.Config)
}

func (v *vm) tellNetwork(ctx context.Context, request *agentv1.ConfigureNetworkRequest) error {
	if _, err := v.agent.ConfigureNetwork(ctx, request); err != nil {
		var names []string
		for _, i := range request.Interfaces {
			names = append(names, cmp.Or(i.Name, net.HardwareAddr(i.Device).String()))
		}
		return fmt.Errorf("give the guest %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// countNetwork is what the sandbox has received and sent; none is known once the namespace is gone.
func (v *vm) countNetwork() []*agentv1.StatsResponse_Network {
	if v.follower == nil {
		return nil
	}
	list, err := v.follower.Count()
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
