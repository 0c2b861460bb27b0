#!/bin/bash
# Compares the Go benchmarks of the parts (codec, frames, calls, transport, tables of
# nodes, leases) of this work tree with those of another commit, by benchstat.
#
#     tools/bench-compare.sh [COMMIT]      # HEAD unless given
#
# Knobs: BENCH='.' which benchmarks, COUNT=6 rounds, each of both in turn, TIME=0.5s a
# benchmark, PACKAGES. A benchmark that the other commit does not have stands alone.
set -eu
cd "$(dirname "$0")/.."
: "${BENCH:=.}" "${COUNT:=6}" "${TIME:=0.5s}"
: "${PACKAGES:=./fsproto ./rpc ./rpycfsd/export ./mount ./internal/identity ./internal/mapped}"
base=$(git rev-parse --verify "${1:-HEAD}^{commit}")

tmp=$(mktemp -d)
trap 'git worktree remove --force "$tmp/base" 2>/dev/null; rm -rf "$tmp"' EXIT
git worktree add --quiet --detach "$tmp/base" "$base"
mkdir "$tmp/old" "$tmp/new"

# compile DIRECTORY TO: the tests of each package as a program of its own.
compile() {
	local package
	for package in $PACKAGES ./bench/rpcbench; do
		[ -d "$1/$package" ] || continue
		(cd "$1/$package" && go test -c -o "$2/$(tr / _ <<<"$package").test" .)
	done
}
compile "$tmp/base" "$tmp/old"
compile "$PWD" "$tmp/new"

for ((round = 1; round <= COUNT; round++)); do
	for side in old new; do
		root=$PWD
		[ $side = new ] || root=$tmp/base
		for package in $PACKAGES ./bench/rpcbench; do
			program=$tmp/$side/$(tr / _ <<<"$package").test
			[ -e "$program" ] || continue
			# Targets compares peers, whatever the commit.
			(cd "$root/$package" && echo "pkg: $package" && timeout 600 "$program" -test.run '^$' \
				-test.bench "$BENCH" -test.skip Targets -test.benchtime "$TIME" -test.benchmem) >>"$tmp/$side.txt"
		done
	done
	echo "bench-compare: round $round of $COUNT done" >&2
done
(cd bench && go tool benchstat "old=$tmp/old.txt" "new=$tmp/new.txt")
