#!/bin/bash
# Runs every fuzz target of the module for FUZZTIME (default 10s), one after
# another. A failing input stays in the package's testdata, as go test leaves it.
set -eu
cd "$(dirname "$0")/.."
: "${FUZZTIME:=10s}"

# "package target" for each; only packages with fuzz targets are built.
targets=$(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -r grep -oE '^func Fuzz\w+' |
	sed -E 's|^(.*)/[^/]+_test.go:func (Fuzz\w+)|\1 \2|' | sort -u)
[ -n "$targets" ] || { echo "fuzz: there is not one fuzz target" >&2; exit 1; }

while read -r package target; do
	echo "fuzz: $package $target"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$package" | tail -n 2
done <<<"$targets"
