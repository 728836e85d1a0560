#!/bin/sh
# Makes the Debian image of the tests, and a repository of packages that it does not have installed.
#
#   scripts/debian.sh OUT      writes OUT, an OCI archive, and OUT.packages/, a repository for apt
#
# Both are made once and kept, by what goes into them. Packages come from where mmdebstrap takes them, or from
# $HUSK_DEBIAN_MIRROR. Cache: $HUSK_CACHE, default ~/.cache/husk. Needs root, or user namespaces.
set -eu
cd "$(dirname "$0")/.."
out=${1:?usage: debian.sh OUT}
cache=${HUSK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/husk}

suite=bookworm
installed=systemd,systemd-sysv,dbus,git,sqlite3,apt,acl
# What the tests install, and what that pulls in: a set-group-ID program and a group, alternatives.
offered="cron vim-tiny"
# recipe goes up when the commands below change so that the image comes out different.
recipe=1

die() { echo "debian: $*" >&2; exit 1; }
command -v mmdebstrap >/dev/null || die "no mmdebstrap: run scripts/setup.sh"

key=$(printf '%s\n' "$suite" "$installed" "$offered" "$recipe" "$(dpkg --print-architecture)" | sha256sum | cut -c 1-16)
made=$cache/debian-$key

# index prints the repository's list of packages, in the current directory.
index() {
	for f in *.deb; do
		dpkg-deb --field "$f"
		printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$f" "$(stat -c %s "$f")" "$(sha256sum "$f" | cut -d ' ' -f 1)"
	done
}

# The image has no manuals: they are most of its files, and a second of each import. What is offered is fetched by
# the image's own apt, so that it is what goes with the image.
make_image() {
	mkdir "$1" "$1/packages"
	mmdebstrap --quiet --variant=minbase --include="$installed" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook='chroot "$1" apt-get clean' \
		--customize-hook="chroot \"\$1\" apt-get -qq --download-only --no-install-recommends install $offered" \
		--customize-hook="copy-out /var/cache/apt/archives $1/packages" \
		"$suite" "$1/root.tar" ${HUSK_DEBIAN_MIRROR:+"$HUSK_DEBIAN_MIRROR"}
	mv "$1"/packages/archives/*.deb "$1/packages/"
	rm -r "$1/packages/archives"
	(cd "$1/packages" && index >Packages)
	go run ./test/image -name husk.test/debian:latest -layer "$1/root.tar" -o "$1/image.tar"
	rm "$1/root.tar"
}

mkdir -p "$cache"
exec 9>"$cache/debian.lock"
flock 9
if [ ! -d "$made" ]; then
	echo "debian: making an image of $suite with $installed" >&2
	rm -rf "$made".new
	make_image "$made.new"
	mv "$made.new" "$made"
fi
mkdir -p "$(dirname "$out")"
rm -rf "$out" "$out.packages"
# Hard links where the cache is on the same file system.
cp -rl "$made/packages" "$out.packages" 2>/dev/null || { rm -rf "$out.packages"; cp -r "$made/packages" "$out.packages"; }
ln -f "$made/image.tar" "$out" 2>/dev/null || cp "$made/image.tar" "$out"
