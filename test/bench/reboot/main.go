// Command reboot is an init that ends its machine at once: what is left of a boot is the machine and the kernel.
package main

import "golang.org/x/sys/unix"

func main() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
