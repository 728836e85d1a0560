#!/bin/sh
# Runs the end-to-end tests in the KVM test host, once for each containerd, two at a time: each test host has one
# processor.
#
#   scripts/e2e.sh RUN CGROUP CONTAINERD…     CONTAINERD is 2 (built from its module) or 1 (the distribution's)
set -eu
cd "$(dirname "$0")/.."
run=$1 cgroup=$2
shift 2
bin=$PWD/bin
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# one runs the tests with one containerd; the long row of containers is the newest one's.
one() {
	"$bin/test/host" -cpus 1 -timeout 40m -cgroup "$cgroup" -- \
		"$bin/test/e2e.test" -test.v -test.timeout 38m -test.run "$run" -in-a-row "$2" \
		-bin "$bin" -image "$bin/test/image.tar" -containerd "$1"
}

for c in "$@"; do
	case $c in
	1) dir= row=10 version=$(containerd --version | awk '{print $3}') ;;
	2) dir=$bin/test/containerd row=50 version=$("$dir/containerd" --version | awk '{print $3}') ;;
	*) echo "e2e: containerd is 1 or 2, not $c" >&2; exit 2 ;;
	esac
	echo "== end to end: containerd $version, cgroup $cgroup" | tee "$logs/$c"
	(if one "$dir" "$row" >>"$logs/$c" 2>&1; then echo 0; else echo $?; fi >"$logs/$c.status") &
done
wait
failed=0
for c in "$@"; do
	cat "$logs/$c"
	status=$(cat "$logs/$c.status")
	[ "$status" = 0 ] || { echo "e2e: containerd $c: exit status $status" >&2; failed=1; }
done
exit $failed
