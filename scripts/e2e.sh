#!/bin/sh
# Runs end-to-end tests, as many jobs at a time as there are processors, and prints each job's output when all have
# ended.
#
#   [ROW=n] scripts/e2e.sh RUN CGROUP DRIVER JOB…
#
# CGROUP is v1, v1-nofreezer, hybrid or v2; DRIVER is cgroupfs or systemd: who makes the containers' cgroups. ROW is how
# many equal containers there are in the row that ends with kills and with want of memory.
#
#   kvm-2            all end-to-end tests on KVM, in the KVM test host with CGROUP's layout
#   kvm-1            those that depend on containerd's version, there
#   qemu-2, qemu-1   the same on QEMU, right here; qemu-2 also those of the image that installs husk
#   files            those of the Debian image and of test/posix, on QEMU, right here
#   cri-2, cri-1     pods through containerd's CRI plugin, on QEMU, right here
#   cri-kvm          the same as cri-2 on KVM, in the test host: on request, as it is slow there
#   cri-kvm-1        the same as cri-1 there
#   cri-sandbox      the same without a pause container, through containerd's Sandbox API
#   crio             pods as CRI-O makes them, on QEMU, right here
#   unit-kvm         the unit tests that need KVM, in the test host
#   unit-qemu        the unit tests that boot the guest's kernel in QEMU
#   foreign          containers in machines of other architectures, on QEMU: half a minute once the kernels are built
#
# The number is containerd's: 2 is built from its module, 1 is the distribution's.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/bin

# host runs a command in a test host with one processor.
host() {
	layout=${cgroup%-nofreezer} init=none append=
	[ "$cgroup" = "$layout" ] || append=cgroup_no_v1=freezer
	[ "$driver" = cgroupfs ] || init=$driver
	"$bin/test/host" -cpus 1 -timeout 40m -cgroup "$layout" -init "$init" -append "$append" -- "$@"
}

# here runs a command that starts its virtual machines on this machine.
here() { scripts/pen.sh "$@"; }

# What the test host is too slow for, what needs a steadier clock than an emulated one (once a pause there hung, in a host
# whose clock had leapt), and what KVM has no part in. The jobs on QEMU have most of it, the test host has all with RUN=… .
slow='TestPauseAndResume|TestCheckpoint|TestNetwork|TestHostNetwork|TestWithoutVhost|TestInterfaces|TestKilledVMLeaves|TestSegments|TestQueues|TestNameServer|TestWithoutANetwork|TestANamespace|TestTheClock|TestCPUQuota|TestMetricsAgree|TestMemoryComesBack|TestAnIdle|TestTheGuestsUse|TestIOLimits|TestRootOfErofs|TestProcessAttributes|TestBadConfiguration|TestUnknownAnnotation|TestImageOfAnother|TestMissingExecutable'

# What containerd and the shim have to agree about.
contract='TestExitStatus|TestSignals|TestEvents|TestKilledWhile|TestKilledDuring|TestContainerOutlives|TestExitWhile|TestContainerdKilled|TestPidIs|TestGuestPanic|TestEightAtOnce|TestStd|TestBurst|TestTerminal|TestExecHas|TestMissingExecutable|TestBadConfiguration|TestMetricsAndProcesses|TestTheVMMIsInTheCgroup|TestOutOfMemoryInTheGuest'

# What works on many files.
files='TestSharedFiles|TestACLs|TestTar|TestOverlay|TestThousands|TestDebian|TestGitClones|TestSqlite|TestSystemdRuns|TestAKernelTree'

# tests prints the command of the end-to-end tests: JOB. The fields of the OCI specification are gone through where that is
# fast. With RUN=… a job has all of it.
tests() {
	backend=${1%-*} dir=$bin/test/containerd oci=false only='' not='' more=''
	case $1 in
	kvm-2) not=$slow more=-megabytes=4 ;;
	kvm-1) not=$slow only=$contract ;;
	qemu-2) not=$files oci=true more=-node-image=$bin/husk-image.tar ;;
	files) backend=qemu only=$files more="-debian=$bin/test/debian.tar -posix=$bin/test/posix" ;;
	esac
	case $1 in *-1) dir='' ;; esac
	[ "$run" = . ] || only='' not='' oci=true
	# This machine need not have systemd.
	by=cgroupfs
	[ "$backend" = qemu ] || by=$driver
	echo "$bin/test/e2e.test" -test.v -test.timeout 38m "-test.run=${only:-$run}" ${not:+-test.skip=$not} "-in-a-row=${ROW:-10}" "-oci=$oci" \
		-backend "$backend" -driver "$by" -bin "$bin" -runtimetest "$bin/test/runtimetest" -image "$bin/test/image.tar" "-containerd=$dir" $more
}

# pods prints the command of the tests of pods: CONTAINERD BACKEND.
pods() {
	case $1 in
	1) dir='' ;;
	2) dir=$bin/test/containerd ;;
	esac
	echo "$bin/test/cri.test" -test.v -test.timeout 38m "-test.run=$run" -backend "$2" -bin "$bin" -image "$bin/test/image.tar" \
		-pause "$bin/test/pause.tar" "-containerd=$dir" -drop-in "$PWD/deploy/containerd/husk-$1.x.toml"
}

job() {
	echo "== end to end: $1, cgroup $cgroup, driver $driver"
	case $1 in
	kvm-[12])
		[ "$run" != . ] || echo "left to the jobs on QEMU, or to RUN=…: $slow"
		[ "$run$1" != .kvm-1 ] || echo "only what depends on containerd's version: $contract"
		host $(tests "$1")
		;;
	qemu-[12] | files) here $(tests "$1") ;;
	cri-[12]) here $(pods "${1#cri-}" qemu) ;;
	cri-kvm) host $(pods 2 kvm) ;;
	cri-kvm-1) host $(pods 1 kvm) ;;
	crio)
		here "$bin/test/crio.test" -test.v -test.timeout 38m "-test.run=$run" -backend qemu -bin "$bin" -image "$bin/test/image.tar" \
			-pause "$bin/test/pause.tar"
		;;
	cri-sandbox) here $(pods 2 qemu) -handler husk-sandbox ;;
	unit-kvm)
		host env "HUSK_TEST_KERNEL=$bin/husk-kernel" "HUSK_TEST_BZIMAGE=$bin/husk-kernel.bzImage" \
			sh -ec 'for p in kvm vcpu arch boot virtio/net; do (cd "vmm/$p" && "$0/$p.test" -test.timeout 38m); done' "$bin/test/unit" ;;
	unit-qemu) here env "HUSK_TEST_KERNEL=$bin/husk-kernel" go test -count=1 ./vmm/qemu ./vmm/vhostuser ;;
	foreign) here make foreign ;;
	*) echo "e2e: no job $1" >&2; return 2 ;;
	esac
}

if [ "$1" = --job ]; then
	run=$2 cgroup=$3 driver=$4 logs=$5
	if job "$6" >"$logs/$6" 2>&1; then echo 0; else echo $?; fi >"$logs/$6.status"
	exit
fi
run=$1 cgroup=$2 driver=$3
shift 3
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
printf '%s\n' "$@" | xargs -P "$(nproc)" -I '{}' "$0" --job "$run" "$cgroup" "$driver" "$logs" '{}'
failed=0
for j in "$@"; do
	cat "$logs/$j"
	status=$(cat "$logs/$j.status")
	[ "$status" = 0 ] || { echo "e2e: $j: exit status $status" >&2; failed=1; }
done
exit $failed
