#!/bin/sh
# Builds the guest kernel: tinyconfig + fragments, out of tree, cached by source version and configuration.
#
#   kernel-configs/build.sh OUT      writes OUT (uncompressed ELF) and OUT.config
#
# Source, in this order: $HUSK_KERNEL_SOURCE (a tarball), the Debian package linux-source-6.12, or the
# tarball of kernel.org named below, which is checked against its sha256 before anything reads it.
# Cache: $HUSK_CACHE, default ~/.cache/husk.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUT}
cache=${HUSK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/husk}
fragments="base microvm container x86_64"

die() { echo "kernel: $*" >&2; exit 1; }

# find_source prints the tarball's path.
find_source() {
	for f in "${HUSK_KERNEL_SOURCE:-}" /usr/src/linux-source-6.12.tar.xz; do
		if [ -n "$f" ] && [ -f "$f" ]; then echo "$f"; return; fi
	done
	f=$cache/$KERNEL_TARBALL
	if [ ! -f "$f" ]; then
		curl -fsSL -o "$f.part" "$KERNEL_URL/$KERNEL_TARBALL" ||
			die "no kernel source: install the package linux-source-6.12, or set HUSK_KERNEL_SOURCE to a tarball of Linux 6.12"
		echo "$KERNEL_SHA256  $f.part" | sha256sum -c - >/dev/null || die "$f.part: sha256 differs from $here/source.env"
		mv "$f.part" "$f"
	fi
	echo "$f"
}

# check_config fails when olddefconfig dropped something a fragment asks for.
check_config() {
	missing=0
	for f in $fragments; do
		while IFS= read -r line; do
			case $line in
			CONFIG_*=n)
				s=${line%=n}
				if grep -q "^$s=" "$1"; then echo "kernel: $f.config: $s should be off" >&2; missing=1; fi ;;
			CONFIG_*=*)
				if ! grep -qxF "$line" "$1"; then echo "kernel: $f.config: $line did not survive olddefconfig" >&2; missing=1; fi ;;
			"# CONFIG_"*" is not set")
				s=${line#\# }; s=${s% is not set}
				if grep -q "^$s=[ym]" "$1"; then echo "kernel: $f.config: $s should be off" >&2; missing=1; fi ;;
			esac
		done <"$here/$f.config"
	done
	return $missing
}

. "$here/source.env"
mkdir -p "$cache" "$(dirname "$out")"
src=$(find_source)
key=$( (sha256sum <"$src"; for f in $fragments; do cat "$here/$f.config"; done; cat "$here/build.sh") | sha256sum | cut -c1-16)
done_dir=$cache/kernel-x86_64-$key

if [ ! -f "$done_dir/vmlinux" ]; then
	tree=$cache/linux-$(sha256sum <"$src" | cut -c1-16)
	if [ ! -f "$tree/.unpacked" ]; then
		echo "kernel: unpacking $src" >&2
		rm -rf "$tree" && mkdir -p "$tree"
		tar -xf "$src" -C "$tree" --strip-components=1
		touch "$tree/.unpacked"
	fi
	obj=$cache/obj-$key
	rm -rf "$obj" && mkdir -p "$obj"
	make -s -C "$tree" O="$obj" ARCH=x86_64 tinyconfig >/dev/null
	(cd "$obj" && for f in $fragments; do cat "$here/$f.config"; done >>.config)
	make -s -C "$tree" O="$obj" ARCH=x86_64 olddefconfig 2>/dev/null
	check_config "$obj/.config" || die "the configuration is not what the fragments ask for"
	if [ -n "${HUSK_KERNEL_CONFIG_ONLY:-}" ]; then exit 0; fi
	echo "kernel: building $(make -s -C "$tree" O="$obj" kernelversion) with $(nproc) jobs (log: $obj/build.log)" >&2
	make -C "$tree" O="$obj" ARCH=x86_64 -j"$(nproc)" KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=husk KBUILD_BUILD_HOST=husk \
		bzImage >"$obj/build.log" 2>&1 || { tail -30 "$obj/build.log" >&2; die "build failed"; }
	tmp=$done_dir.part
	rm -rf "$tmp" && mkdir -p "$tmp"
	objcopy -S "$obj/vmlinux" "$tmp/vmlinux"
	cp "$obj/arch/x86/boot/bzImage" "$tmp/bzImage"
	cp "$obj/.config" "$tmp/config"
	rm -rf "$done_dir" && mv "$tmp" "$done_dir"
	rm -rf "$obj"
fi

cp "$done_dir/vmlinux" "$out"
cp "$done_dir/config" "$out.config"
cp "$done_dir/bzImage" "$out.bzImage"
