#!/bin/sh
# Builds a guest kernel: tinyconfig + fragments, out of tree, cached by source version and configuration.
#
#   kernel-configs/build.sh [-a ARCH] OUT      writes OUT (what the VMM loads) and OUT.config
#
# ARCH is x86_64 (uncompressed ELF, and OUT.bzImage beside it), arm64 (Image) or s390x (bzImage); without -a, the
# machine's own. A foreign one is compiled with Debian's gcc-aarch64-linux-gnu or gcc-s390x-linux-gnu.
#
# Source, in this order: $HUSK_KERNEL_SOURCE (a tarball), the Debian package linux-source-6.12, or the
# tarball of kernel.org named below, which is checked against its sha256 before anything reads it.
# Cache: $HUSK_CACHE, default ~/.cache/husk.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${HUSK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/husk}

die() { echo "kernel: $*" >&2; exit 1; }

arch=$(uname -m)
while getopts a: opt; do
	case $opt in
	a) arch=$OPTARG ;;
	*) die "usage: build.sh [-a ARCH] OUT" ;;
	esac
done
shift $((OPTIND - 1))
out=${1:?usage: build.sh [-a ARCH] OUT}

# karch is the kernel's word for the architecture, target what make builds, tools the prefix of the compiler.
# recipe goes up when the commands below change so that a kernel comes out different for the same fragments.
case $arch in
x86_64) karch=x86_64 target=bzImage tools=x86_64-linux-gnu- recipe=1 ;;
arm64 | aarch64) arch=arm64 karch=arm64 target=Image tools=aarch64-linux-gnu- recipe=1 ;;
s390x) karch=s390 target=bzImage tools=s390x-linux-gnu- recipe=1 ;;
*) die "no guest kernel for $arch: there are x86_64, arm64 and s390x" ;;
esac
fragments="base microvm container $arch"
if [ "$(uname -m)" = "${tools%%-*}" ]; then tools=; fi

# settings prints the fragments without their reasons: better words make no other kernel.
settings() { for f in $fragments; do grep -E '^(# )?CONFIG_' "$here/$f.config"; done; }

# kmake is make in the kernel's tree.
kmake() { make -C "$tree" O="$obj" ARCH=$karch CROSS_COMPILE=$tools "$@"; }

# lock makes builds take turns, until this shell ends: two in one directory destroy each other, and each uses all
# processors anyway. Whoever had to wait may find the work done.
lock() {
	exec 9>"$cache/kernel.lock"
	flock -n 9 && return
	echo "kernel: waiting for another build, which holds $cache/kernel.lock" >&2
	flock 9
}

# find_source prints the tarball's path.
find_source() {
	for f in "${HUSK_KERNEL_SOURCE:-}" /usr/src/linux-source-6.12.tar.xz; do
		if [ -n "$f" ] && [ -f "$f" ]; then echo "$f"; return; fi
	done
	f=$cache/$KERNEL_TARBALL
	if [ ! -f "$f" ]; then lock; fi
	if [ ! -f "$f" ]; then
		curl -fsSL -o "$f.part" "$KERNEL_URL/$KERNEL_TARBALL" ||
			die "no kernel source: install the package linux-source-6.12, or set HUSK_KERNEL_SOURCE to a tarball of Linux 6.12"
		echo "$KERNEL_SHA256  $f.part" | sha256sum -c - >/dev/null || die "$f.part: sha256 differs from $here/source.env"
		mv "$f.part" "$f"
	fi
	echo "$f"
}

# check_config fails when olddefconfig dropped something the fragments ask for. Of several that name a symbol the
# last has the word.
check_config() {
	for f in $fragments; do sed "s/^/$f.config: /" "$here/$f.config"; done | awk -v config="$1" '
		BEGIN { while ((getline line <config) > 0) if (split(line, kv, "=") > 1) have[kv[1]] = substr(line, length(kv[1]) + 2) }
		$2 == "#" && $3 ~ /^CONFIG_/ && $4 == "is" && $5 == "not" { want[$3] = "n"; from[$3] = $1 }
		$2 ~ /^CONFIG_.*=/ { s = $2; sub(/=.*/, "", s); v = $0; sub(/^[^=]*=/, "", v); want[s] = v; from[s] = $1 }
		END {
			for (s in want) {
				got = s in have ? have[s] : "n"
				if (got != want[s]) { printf "kernel: %s %s is %s, not %s\n", from[s], s, got, want[s]; bad = 1 }
			}
			exit bad
		}' >&2
}

. "$here/source.env"
mkdir -p "$cache" "$(dirname "$out")"
src=$(find_source)
key=$( (sha256sum <"$src"; settings; echo "$recipe") | sha256sum | cut -c1-16)
done_dir=$cache/kernel-$arch-$key

if [ ! -f "$done_dir/config" ]; then lock; fi
if [ ! -f "$done_dir/config" ]; then
	command -v "${tools}gcc" >/dev/null || die "no ${tools}gcc: install the package gcc-${tools%-}"
	tree=$cache/linux-$(sha256sum <"$src" | cut -c1-16)
	if [ ! -f "$tree/.unpacked" ]; then
		echo "kernel: unpacking $src" >&2
		rm -rf "$tree" && mkdir -p "$tree"
		tar -xf "$src" -C "$tree" --strip-components=1
		touch "$tree/.unpacked"
	fi
	obj=$cache/obj-$key
	rm -rf "$obj" && mkdir -p "$obj"
	kmake -s tinyconfig >/dev/null
	settings >>"$obj/.config"
	kmake -s olddefconfig 2>/dev/null
	check_config "$obj/.config" || die "the configuration is not what the fragments ask for"
	if [ -n "${HUSK_KERNEL_CONFIG_ONLY:-}" ]; then exit 0; fi
	echo "kernel: building $(kmake -s kernelversion) for $arch with $(nproc) jobs (log: $obj/build.log)" >&2
	kmake -j"$(nproc)" KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=husk KBUILD_BUILD_HOST=husk \
		$target >"$obj/build.log" 2>&1 || { tail -30 "$obj/build.log" >&2; die "build failed"; }
	tmp=$done_dir.part
	rm -rf "$tmp" && mkdir -p "$tmp"
	case $arch in
	x86_64)
		"${tools}objcopy" -S "$obj/vmlinux" "$tmp/vmlinux"
		cp "$obj/arch/x86/boot/bzImage" "$tmp/bzImage" ;;
	*) cp "$obj/arch/$karch/boot/$target" "$tmp/$target" ;;
	esac
	cp "$obj/.config" "$tmp/config"
	rm -rf "$done_dir" && mv "$tmp" "$done_dir"
	rm -rf "$obj"
fi

cp "$done_dir/config" "$out.config"
case $arch in
x86_64)
	cp "$done_dir/vmlinux" "$out"
	cp "$done_dir/bzImage" "$out.bzImage" ;;
*) cp "$done_dir/$target" "$out" ;;
esac
