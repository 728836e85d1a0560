#!/bin/sh
# Runs the unit tests of other architectures under qemu-user: byte order, structures and system call numbers are
# theirs, the kernel is this machine's.
#
#   scripts/cross.sh GOARCH…
set -eu
cd "$(dirname "$0")/.."

# What qemu-user can't run: a package, the test (- is all of them), the reason. Those of test/ are of the machine
# that tests, not of the one that runs husk. What starts processes is among them since it hangs now and then: qemu-user
# 7.2 has threads of its own, and in a child forked beside them the locks that they held stay taken for ever.
skipped='
guest-agent/internal/agent     -  starts itself in new namespaces, and the kernel knows its own programs only
guest-agent/internal/netcfg    -  rtnetlink is not all emulated
guest-agent/internal/listeners TestWho.*IsInTheList  /proc/net/tcp is in the byte order of the machine that emulates
shim/internal/hostnet          -  rtnetlink is not all emulated
vmm/client                     -  starts processes in new namespaces
shim/internal/manager          -  starts itself as the shim daemon: likewise
vmm/jail                       -  starts itself jailed: likewise
guest-agent/internal/process   TestEveryChilds.*|TestWhatWasReaped.*  starts processes
shim/internal/footprint        -  starts processes
shim/internal/hooks            -  starts processes
shim/internal/sandbox          -  starts processes
shim/internal/hostcgroup       TestAProcessIsPlaced.*|TestRemoveWaitsFor.*|TestAnOOMKillIsKnown.*  starts processes
shim/internal/rundir           TestEvictKillsTheHolder|TestARecycledPidIsNotKilled  starts processes
shim/internal/node             TestContainerdsConfiguration|TestAnEngine.*|TestInstallAndRemove|TestAnUpgrade.*  starts processes
shim/internal/stdio            TestALoggingProgram.*  starts processes
vmm/control                    TestMoreFilesAreDonated.*|TestARefusedRequest.*  starts processes
guest-agent/internal/container TestADiskIsReleased.*  starts processes
vmm/qemu                       TestFind.*|TestAProcessThatHasJustExited.*  starts processes
vmm/qemu                       TestMachinesOf.*|TestSignalsFrom.*|TestStart(Says|DoesNot).*|TestQEMU.*|TestNothingIsLeft  start QEMU in new namespaces
vmm/vhostuser                  TestBrokenFrontEndIsTold  control messages are cut without a word
vmm/virtio/fs                  TestKernel.*  mounts through /dev/fuse, and starts itself
vmm/virtio/fs                  TestFilesAreCreatedWrittenReadAndTruncated  pwritev2 is not emulated
shim/internal/mounts           TestSocketsAndFifosAreSources|TestMountsOfTheEngineAreBroughtAndGoAway  open_tree is not emulated
shim/internal/mounts           TestAForeignImageIsRefusedByItsArchitecture  openat2 is not emulated
vmm/kvm                        TestRequireNamesEveryMissingCapability  the ioctls of /dev/kvm are not emulated
'
rows=$(echo "$skipped" | grep .)
module=$(go list -m)
packages=$(echo "$rows" | awk -v m="$module" '$2 == "-" {print m "/" $1}')
tests=$(echo "$rows" | awk '$2 != "-" {print $2}' | paste -sd'|')

for arch in "$@"; do
	case $arch in
	amd64) cpu=x86_64 ;;
	arm64) cpu=aarch64 ;;
	*) cpu=$arch ;;
	esac
	emulator=qemu-$cpu-static
	command -v "$emulator" >/dev/null || { echo "cross: no $emulator: install the package qemu-user-static" >&2; exit 1; }
	echo "== $arch under $emulator; skipped:"
	echo "$rows" | sed 's/^/   /'
	# Short: the emulated processor is some twenty times slower.
	GOARCH=$arch go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./bpf ./proto/... ./guest-agent/... ./shim/... ./vmm/... |
		grep -vxF "$packages" | GOARCH=$arch xargs go test -short -timeout 5m -exec "$emulator" -skip "^($tests)\$"
done
