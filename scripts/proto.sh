#!/bin/bash
# Generates the Go code of proto/, with the generators pinned in go.mod; --check only compares.
set -eu
cd "$(dirname "$0")/.."
out=.
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
if [ "${1:-}" = --check ]; then out=$tools/out; mkdir "$out"; fi
GOBIN=$tools go install tool
PATH=$tools:$PATH protoc -I proto \
	--go_out="$out" --go_opt=module=github.com/huskvm/husk \
	--go-ttrpc_out="$out" --go-ttrpc_opt=module=github.com/huskvm/husk \
	$(cd proto && find . -name '*.proto' | sed 's,^\./,,' | sort)
[ "$out" != . ] || exit 0
# protoc's own version is in a comment, and differs between distributions.
for f in $(cd "$out" && find . -name '*.go'); do
	if ! diff <(grep -v '^//.*protoc  *v' "$out/$f") <(grep -v '^//.*protoc  *v' "$f") >&2; then
		echo "proto: $f is not current: run make proto" >&2
		exit 1
	fi
done
