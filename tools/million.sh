#!/bin/bash
# Proves that a directory of a million files is listed whole and costs no memory that
# grows with it: `ls -f | wc -l` through the mount, three times, and what the daemon and
# the process behind the mount hold afterwards.
#
#     tools/million.sh
#
# Knobs: FILES=1000000, MIB=64 that either side may hold more than before, and those of
# lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
: "${FILES:=1000000}" "${MIB:=64}"

# resident PID FIELD: MiB, now (VmRSS) or at most so far (VmHWM).
resident() { awk -v field="$2:" '$1 == field { print int($2 / 1024) }' "/proc/$1/status"; }

proof_start
mkdir "$export/many"
# xargs makes them on the server: what is proven is reading.
(cd "$export/many" && seq -f 'file-%08.0f' "$FILES" | xargs -n 5000 touch) || die "could not make $FILES files"
serve root
mount_rpycfs "$tmp/mnt"
process=$(mount_process "$tmp/mnt")
[ -n "$process" ] || die "no process behind the mount"
# A first small listing, so that what every process needs once does not count.
ls -f "$tmp/mnt" >/dev/null
before_daemon=$(resident "$daemon" VmRSS) before_mount=$(resident "$process" VmRSS)
for round in 1 2 3; do
	start=$SECONDS
	count=$(timeout 600 ls -f "$tmp/mnt/many" | wc -l)
	say "round $round: ls -f | wc -l: $count, $((SECONDS - start)) s"
	[ "$count" = $((FILES + 2)) ] || bad "$count names, $((FILES + 2)) expected"
done
timeout 600 find "$tmp/mnt/many" -mindepth 1 -printf '%f\n' | sort >"$tmp/out/shown"
find "$export/many" -mindepth 1 -printf '%f\n' | sort | cmp - "$tmp/out/shown" || bad "the names differ"
[ "$(uniq -d "$tmp/out/shown" | wc -l)" = 0 ] || bad "some names come twice"

# grown NAME PID BEFORE
grown() {
	local now most
	now=$(resident "$2" VmRSS) most=$(resident "$2" VmHWM)
	say "$1: $3 MiB before, $now after, $most at most"
	[ "$most" -le $(($3 + MIB)) ] || bad "$1: more than $MIB MiB above what it was before"
}
grown "the daemon" "$daemon" "$before_daemon"
grown "the mount" "$process" "$before_mount"
verdict
