#!/bin/bash
# Proves that system calls answer on the mount as on ext4: pjdfstest's assertions,
# each one that fails on the mount and passes on ext4 by name.
#
#     tools/pjdfstest.sh PJDFSTEST-CHECKOUT [TEST...]
#
# TEST is a directory or file below tests/, such as rename or open/07.t; all unless
# given. With PEER=sshfs the tests run on an sshfs of the same directory as well. The
# tests are told everywhere that they are on ext4, so that they leave out the same.
# Differences that stand in tools/pjdfstest.exceptions (test, number, reason) are
# forgiven; one that stands there and passes is a failure. What is missing is
# installed from Debian, as root.
# Knobs: PEER=, JOBS=2 tests at a time, and those of lib/proof.sh; RUN_AS=caller is
# what this proof is meant for, in the mode daemon nobody but root has rights.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
: "${PEER:=}" "${JOBS:=2}"
checkout=${1:-}
shift || true
exceptions=tools/pjdfstest.exceptions

build() {
	[ -e "$checkout/pjdfstest.c" ] || die "usage: $0 CHECKOUT, a copy of pjdfstest (github.com/pjd/pjdfstest)"
	need cc:gcc autoconf:autoconf automake:automake make:make openssl:openssl perl:perl
	cp -R "$checkout" "$tmp/pjdfstest"
	(cd "$tmp/pjdfstest" && autoreconf -ifs && ./configure && make pjdfstest) >"$tmp/out/build" 2>&1 ||
		{ tail -n 20 "$tmp/out/build" >&2 && die "pjdfstest does not build"; }
	echo 'fs=EXT4' >>"$tmp/pjdfstest/tests/conf"
}

# one NAME DIR TEST: the test's output in tmp/out/NAME/TEST, "/" as "_".
# shellcheck disable=SC2317 # xargs calls it
one() {
	mkdir -p "$2/${3//\//_}" && cd "$2/${3//\//_}" || exit
	umask 022
	timeout 600 sh "$tmp/pjdfstest/tests/$3" >"$tmp/out/$1/${3//\//_}" 2>&1
}
export -f one

# run NAME DIR: all tests there, then their results as lines "TEST NUMBER ok|not".
# What was planned and did not come is a failure; what fails under TODO is none.
run() {
	mkdir -p "$tmp/out/$1"
	xargs -P "$JOBS" -I{} bash -c 'one "$@"' - "$1" "$2" {} <"$tmp/out/tests" || true
	(cd "$tmp/out/$1" && awk '
		FNR == 1 { close_plan(); file = substr(FILENAME, 3); sub("_", "/", file); planned = 0; split("", seen) }
		/^1\.\.[0-9]+/ { planned = substr($1, 4) + 0 }
		/^(not )?ok/ { n = $1 == "not" ? $3 : $2; seen[n + 0] = ($1 == "ok" || /# TODO/) ? "ok" : "not" }
		END { close_plan() }
		function close_plan(i) { for (i = 1; i <= planned; i++) print file, i, (i in seen) ? seen[i] : "not" }
	' ./*) | sort >"$tmp/out/$1.results"
	[ -s "$tmp/out/$1.results" ] || die "not one result; see $tmp/out/$1"
	say "$1: $(grep -c 'ok$' "$tmp/out/$1.results") of $(wc -l <"$tmp/out/$1.results") assertions pass"
}

# worse NAME: "TEST NUMBER" of what passes on ext4 and fails there.
worse() {
	join <(awk '$3 == "ok" { print $1 "#" $2 }' "$tmp/out/ext4.results" | sort) \
		<(awk '$3 != "ok" { print $1 "#" $2 }' "$tmp/out/$1.results" | sort) | tr '#' ' ' | sort -V
}

# told NAME TEST NUMBER: what the test said about it.
told() { grep -E "^not ok $3( |\$)" "$tmp/out/$1/${2//\//_}" || echo "did not come"; }

proof_start
build
(cd "$tmp/pjdfstest/tests" && find "${@:-.}" -name '*.t' | sed 's|^\./||' | sort) >"$tmp/out/tests"
[ -s "$tmp/out/tests" ] || die "no such tests"
export tmp
chmod 755 "$tmp" "$tmp/local" "$export"
serve root
run ext4 "$tmp/local"
mount_rpycfs "$tmp/mnt" allow_other acl
run mount "$tmp/mnt"
unmount "$tmp/mnt"
if [ "$PEER" = sshfs ]; then
	mount_sshfs "$tmp/sshfs" allow_other,default_permissions,dev,suid
	run sshfs "$tmp/sshfs"
	say "sshfs: $(worse sshfs | wc -l) fail that pass on ext4"
fi

worse mount >"$tmp/out/worse"
say "mount: $(wc -l <"$tmp/out/worse") fail that pass on ext4"
touch "$tmp/out/exceptions"
[ ! -e "$exceptions" ] || awk 'NF && !/^#/ { print $1, $2 }' "$exceptions" >"$tmp/out/exceptions"
while read -r test number; do
	grep -qxF "$test $number" "$tmp/out/exceptions" || bad "$test: $(told mount "$test" "$number")"
done <"$tmp/out/worse"
while read -r test number; do
	if grep -qxF "$test $number ok" "$tmp/out/mount.results"; then bad "$test $number passes; it has to leave $exceptions"; fi
done <"$tmp/out/exceptions"
verdict
