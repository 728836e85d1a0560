#!/bin/sh
# Installs what building and testing husk needs, and is not there yet: Debian packages, and Go.
#
#   scripts/setup.sh          installs all of it
#   scripts/setup.sh --build  installs what building and running need
#   scripts/setup.sh --go     prints the directory, for PATH, of a Go that is new enough or will be after the set-up
#
# Works on Debian and Ubuntu, as root or with sudo. Does nothing, quickly, when everything is there.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
cache=${HUSK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/husk}
want=$(sed -n 's/^go //p' "$here/go.mod")

die() { echo "setup: $*" >&2; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"
	elif command -v sudo >/dev/null; then sudo "$@"
	else die "cannot run '$*': become root, or install sudo"
	fi
}

# installed says whether a package is there.
installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# host_packages are those of a kernel for the test host, and of QEMU's s390x, which distributions pack differently.
host_packages() {
	case $(. /etc/os-release; echo "$ID") in
	debian) echo linux-image-amd64 qemu-system-misc ;;
	*) echo linux-image-generic qemu-system-s390x ;;
	esac
}

packages() {
	# Kernel: a compiler and its friends. Running: a QEMU, containerd 1.6, runc, busybox.
	p="ca-certificates curl make gcc libc6-dev binutils flex bison bc libelf-dev libssl-dev xz-utils lz4 kmod git
		busybox-static e2fsprogs qemu-system-x86 containerd runc iproute2"
	if [ "$1" = all ]; then
		# The KVM test host's kernel and its other init; other architectures: their compilers, for kernels, and
		# QEMU's two kinds, for unit tests and for machines. Who makes the Debian image.
		p="$p mmdebstrap debian-archive-keyring systemd dbus protobuf-compiler
			gcc-aarch64-linux-gnu gcc-s390x-linux-gnu qemu-user-static qemu-system-arm $(host_packages)"
		# A network as orchestrators make it, what those need of the host, and what measures it. Roots as snapshotters make them.
		p="$p containernetworking-plugins iptables nftables iperf3 erofs-utils dmsetup"
	fi
	for q in $p; do installed "$q" || echo "$q"; done
	# The kernel's source is a package where Debian has it; elsewhere build.sh fetches the tarball.
	if ! installed linux-source-6.12 && ! ls /usr/src/linux-source-6.12.tar.* >/dev/null 2>&1; then echo "?linux-source-6.12"; fi
}

# new_enough compares the version of the go in $1 with go.mod's.
new_enough() {
	v=$("$1" env GOVERSION 2>/dev/null | sed 's/^go//') || return 1
	[ -n "$v" ] && [ "$(printf '%s\n%s\n' "$want" "$v" | sort -V | head -1)" = "$want" ]
}

# find_go prints the directory of a go that is new enough.
find_go() {
	for g in "$(command -v go || true)" /usr/local/go/bin/go "$cache/go-$want/bin/go"; do
		if [ -n "$g" ] && [ -x "$g" ] && GOTOOLCHAIN=local new_enough "$g"; then dirname "$g"; return; fi
	done
	return 1
}

# install_go takes the toolchain from the Go module proxy, where it is a module, with whatever go the
# distribution has.
install_go() {
	command -v go >/dev/null || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends golang-go >&2
	arch=$(go env GOARCH)
	echo "setup: fetching go $want" >&2
	tmp=$(mktemp -d)
	answer=$(cd "$tmp" && GOTOOLCHAIN=local GOFLAGS=-mod=mod go mod download -json "golang.org/toolchain@v0.0.1-go$want.linux-$arch" || true)
	rm -rf "$tmp"
	dir=$(echo "$answer" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
	[ -d "$dir" ] || die "go $want is not to be had: install it in /usr/local/go
$answer"
	mkdir -p "$cache"
	rm -rf "$cache/go-$want"
	cp -r "$dir" "$cache/go-$want"
	chmod -R u+w "$cache/go-$want"
	chmod +x "$cache/go-$want"/bin/* "$cache/go-$want"/pkg/tool/*/*
}

if [ "${1:-}" = --go ]; then
	find_go || echo "$cache/go-$want/bin" # where the set-up will put it
	exit
fi

case ${1:-} in
'') what=all ;;
--build) what=build ;;
*) die "usage: setup.sh [--build | --go]" ;;
esac
[ -r /etc/debian_version ] || die "this is neither Debian nor Ubuntu: install the packages of scripts/setup.sh yourself"
missing=$(packages "$what")
if [ -n "$missing" ]; then
	must=$(echo "$missing" | grep -v '^?' || true)
	may=$(echo "$missing" | sed -n 's/^?//p')
	echo "setup: installing" $must $may >&2
	as_root apt-get update -q >&2
	if [ -n "$must" ]; then as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $must >&2; fi
	for q in $may; do as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$q" >&2 || true; done
fi
find_go >/dev/null || install_go
find_go >/dev/null || die "no Go $want"
