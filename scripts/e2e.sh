#!/bin/sh
# Runs the end-to-end tests: here when this machine has KVM, else in the KVM test host.
#
#   scripts/e2e.sh RUN CGROUP CONTAINERD…     CONTAINERD is 2 (built from its module) or 1 (the distribution's)
set -eu
cd "$(dirname "$0")/.."
run=$1 cgroup=$2
shift 2
bin=$PWD/bin
for c in "$@"; do
	case $c in
	1) dir= version=$(containerd --version | awk '{print $3}') ;;
	2) dir=$bin/test/containerd version=$("$dir/containerd" --version | awk '{print $3}') ;;
	*) echo "e2e: containerd is 1 or 2, not $c" >&2; exit 2 ;;
	esac
	echo "== end to end: containerd $version, cgroup $cgroup"
	"$bin/test/host" -timeout 30m -cgroup "$cgroup" -- \
		"$bin/test/e2e.test" -test.v -test.timeout 28m -test.run "$run" \
		-bin "$bin" -image "$bin/test/image.tar" -containerd "$dir"
done
