package netcfg

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// devices are the names, on the virtio bus, of network devices by their own addresses. An interface may get another
// address, and a device may be without an interface: both are known by the device.
type devices map[string]string

const (
	virtioDevices = "/sys/bus/virtio/devices"
	virtioDriver  = "/sys/bus/virtio/drivers/virtio_net"
)

// learn looks for devices, once, while each still has its own address. /sys may be another network namespace's.
func (d *devices) learn() error {
	if *d != nil {
		return nil
	}
	*d = devices{}
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range all {
		dir := filepath.Join("/sys/class/net", i.Name)
		link, err := os.Readlink(filepath.Join(dir, "device"))
		if err != nil {
			continue
		}
		address, err := os.ReadFile(filepath.Join(dir, "address"))
		if name := filepath.Base(link); err == nil && strings.HasPrefix(name, "virtio") && strings.TrimSpace(string(address)) == i.HardwareAddr.String() {
			(*d)[string(i.HardwareAddr)] = name
		}
	}
	return nil
}

// interfaceOf is the name of a device's interface; empty when it has none or there is no such device.
func (d devices) interfaceOf(device []byte) string {
	name, ok := d[string(device)]
	if !ok {
		return ""
	}
	names, err := os.ReadDir(filepath.Join(virtioDevices, name, "net"))
	if err != nil || len(names) == 0 {
		return ""
	}
	return names[0].Name()
}

// hide takes a device from its driver, and so its interface away.
func (d devices) hide(device []byte) error {
	if d.interfaceOf(device) == "" {
		return nil
	}
	return os.WriteFile(virtioDriver+"/unbind", []byte(d[string(device)]), 0)
}

// show gives a device that is hidden back to its driver.
func (d devices) show(device []byte) error {
	name, ok := d[string(device)]
	if !ok || d.interfaceOf(device) != "" {
		return nil
	}
	return os.WriteFile(virtioDriver+"/bind", []byte(name), 0)
}
