#!/bin/bash
# Proves that programs which wait for changes work on the mount:
#
#     tools/watchers.sh [tail|entr|fsnotify]...
#
#   tail      tail -f and tail -F print what another mount and a program on the server
#             append, also to a file that took the name
#   entr      runs its command once a file was written, replaced or removed by those, and
#             the command finds the file as it is
#   fsnotify  the tests of Go's library for it (github.com/fsnotify/fsnotify), which make
#             the changes themselves, on the mount and on ext4: what passes there has to
#             pass on the mount. For root TestAdd/permission_denied fails on both. A busy
#             machine may be too slow for TestInotifyOverflow, which makes 131 072 files in
#             ten seconds; nothing else is known not to fit.
#
# All of them unless some are named. What is missing is installed from Debian, as root;
# fsnotify comes by `go mod download`.
# Knobs: VERSION=v1.9.0 of fsnotify, CHANGES=50 of tail and entr each, and those of
# lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
: "${VERSION:=v1.9.0}" "${CHANGES:=50}"
[ $# -gt 0 ] || set -- tail entr fsnotify

# says TEXT FILE: the file has a line TEXT.
says() { grep -qxF -- "$1" "$2"; }

prove_tail() {
	local i dir way
	for way in -f -F; do
		echo begin >"$export/log$way"
		tail -n +1 "$way" "$tmp/mnt1/log$way" >"$tmp/out/tail$way" 2>"$tmp/out/tail-errors$way" &
		pids+=($!)
		eventually 20 says begin "$tmp/out/tail$way" || bad "tail $way does not begin"
		for ((i = 0; i < CHANGES; i++)); do
			dir=$tmp/mnt2
			[ $((i % 2)) = 0 ] || dir=$export
			if [ "$way" = -F ] && [ $((i % 10)) = 9 ]; then
				echo "line $i" >"$dir/new" && mv "$dir/new" "$dir/log$way"
				# A further replacement would hide it. On what is not a local disk tail looks
				# at the name every five seconds.
				eventually 20 says "line $i" "$tmp/out/tail$way"
			else
				echo "line $i" >>"$dir/log$way"
			fi
		done
		eventually 20 says "line $((CHANGES - 1))" "$tmp/out/tail$way" || bad "tail $way does not print the last line"
		(echo begin && seq -f 'line %g' 0 $((CHANGES - 1))) | cmp - "$tmp/out/tail$way" || bad "tail $way prints something else"
		stop "${pids[-1]}"
	done
}

# idle PID: it has no child.
idle() { [ -z "$(cat "/proc/$1/task/$1/children")" ]; }

# entr_sees DIR DIR...: entr on a file in the first, which is changed in the others in turn.
# While the command runs, and until the file is watched again after that, entr misses
# changes on any file system; so it is given time, and the change is made again if it was
# missed; sets missed, how often that was.
entr_sees() {
	local at=$1 i dir try
	missed=0
	shift
	echo begin >"$1/source"
	: >"$tmp/out/built"
	echo "$at/source" | entr -n sh -c "tail -n 1 '$at/source' >>'$tmp/out/built'" >"$tmp/out/entr" 2>&1 &
	pids+=($!)
	eventually 20 says begin "$tmp/out/built" || bad "entr does not begin"
	for ((i = 0; i < CHANGES; i++)); do
		dir=$1
		[ $((i % 2)) = 0 ] || dir=${2:-$1}
		eventually 20 idle "${pids[-1]}"
		for ((try = 0; try < 5; try++)); do
			if [ $((i % 5)) = 4 ]; then # as editors do it
				echo "build $i" >"$dir/source.new" && mv "$dir/source.new" "$dir/source"
			else
				echo "build $i" >>"$dir/source"
			fi
			! eventually 2 says "build $i" "$tmp/out/built" || break
			missed=$((missed + 1))
		done
		[ "$try" -lt 5 ] || bad "entr does not build after change $i in $dir"
	done
	stop "${pids[-1]}"
}

prove_entr() {
	need entr:entr
	entr_sees "$tmp/local" "$tmp/local"
	local control=$missed
	entr_sees "$tmp/mnt1" "$tmp/mnt2" "$export"
	say "entr: missed $missed of $CHANGES changes, $control on ext4"
}

# passed FILE: the tests that passed, by the output of go test -json.
passed() { sed -n 's/.*"Action":"pass".*"Test":"\([^"]*\)".*/\1/p' "$1" | LC_ALL=C sort; }

prove_fsnotify() {
	local at where
	at=$(cd "$tmp" && GOFLAGS=-mod=mod go mod download -json "github.com/fsnotify/fsnotify@$VERSION" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	[ -d "$at" ] || die "no fsnotify $VERSION"
	cp -R "$at" "$tmp/fsnotify" && chmod -R u+w "$tmp/fsnotify"
	(cd "$tmp/fsnotify" && go test -c -o "$tmp/fsnotify.test" .) || die "fsnotify does not build"
	mkdir -p "$tmp/mnt1/tmp" "$tmp/local/tmp"
	for where in local mnt1; do
		(cd "$tmp/fsnotify" && TMPDIR="$tmp/$where/tmp" timeout 300 go tool test2json "$tmp/fsnotify.test" -test.v=test2json) \
			>"$tmp/out/fsnotify-$where" 2>&1
		passed "$tmp/out/fsnotify-$where" >"$tmp/out/passed-$where"
	done
	say "fsnotify: $(wc -l <"$tmp/out/passed-mnt1") tests passed, $(wc -l <"$tmp/out/passed-local") on ext4"
	[ -s "$tmp/out/passed-local" ] || bad "no test of fsnotify passed on ext4"
	LC_ALL=C comm -13 "$tmp/out/passed-mnt1" "$tmp/out/passed-local" >"$tmp/out/failed"
	say "fails on ext4 as well, or is left out there: $(sed -n 's/.*"Action":"\(fail\|skip\)".*"Test":"\([^"]*\)".*/\2/p' "$tmp/out/fsnotify-local" | paste -sd' ')"
	while read -r test; do
		bad "fsnotify: $test"
		sed -n "s|.*\"Action\":\"output\",\"Test\":\"$test\",\"Output\":\"\(.*\)\".*|    \1|p" "$tmp/out/fsnotify-mnt1" | tail -n 20
	done <"$tmp/out/failed"
}

proof_start
export GOMODCACHE=${GOMODCACHE:-$(HOME=/root go env GOMODCACHE)} GOCACHE=${GOCACHE:-$tmp/gocache}
serve root
mount_rpycfs "$tmp/mnt1"
mount_rpycfs "$tmp/mnt2"
for program in "$@"; do
	start=$SECONDS
	"prove_$program"
	say "$program: $((SECONDS - start)) s"
done
verdict
