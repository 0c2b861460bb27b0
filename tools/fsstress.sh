#!/bin/bash
# Proves that a tree stays right under fsstress, which makes, links, renames, writes,
# maps, punches, copies and removes at random.
#
#     tools/fsstress.sh XFSTESTS-CHECKOUT
#
# First by one process with the same seed on ext4 and on the mount: the two trees
# have to come out the same, names, modes, owners, links, sizes, bytes, attributes.
# Then by several processes on the mount: what the mount shows, also a mount made
# anew, has to be what the server has, times included. That is done in rounds, each
# with a tree of its own. What is missing is installed from Debian, as root.
# Knobs: OPS=1000000 operations of the second part, a tenth in the first, ROUNDS=20,
# PROCESSES=4, SEED=1, and those of lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
. tools/lib/xfstests.sh
: "${OPS:=1000000}" "${ROUNDS:=20}" "${PROCESSES:=4}" "${SEED:=1}"

# ioctl(2) does not pass the mount, and on ext4 it would make files immutable.
never=(-f setattr=0 -f fiemap=0 -f bulkstat=0 -f bulkstat1=0 -f resvsp=0 -f unresvsp=0)
# The daemon makes no devices and gives no file away while it serves as itself.
[ "$RUN_AS" = caller ] || never+=(-f chown=0 -f mknod=0)
# The kernel hands these on to no FUSE file system.
never+=(-f collapse=0 -f insert=0 -f rwhiteout=0 -f write_dontcache=0 -f read_dontcache=0)

# fsstress DIR OPERATIONS PROCESSES [ARG...]
fsstress() {
	local dir=$1 ops=$2 processes=$3
	shift 3
	mkdir "$dir"
	(umask 022 && timeout $((120 + ops / 20)) "$tmp/fsstress" -d "$dir" -n $((ops / processes)) -p "$processes" -s "$SEED" \
		"${never[@]}" "$@" >"$tmp/out/fsstress" 2>&1) || {
		bad "fsstress in $dir: exit code $?"
		tail -n 20 "$tmp/out/fsstress"
	}
}

proof_start
need getfattr:attr
build_xfstests "${1:-}"
serve root
mount_rpycfs "$tmp/mnt"

# What the program does next depends on what it was told, so it has to be told the
# same: no direct and no asynchronous operations, whose sizes depend on the device.
one=(-f dread=0 -f dwrite=0 -f aread=0 -f awrite=0 -f uring_read=0 -f uring_write=0)
fsstress "$tmp/local/one" $((OPS / 10)) 1 "${one[@]}"
fsstress "$tmp/mnt/one" $((OPS / 10)) 1 "${one[@]}"
tree "$tmp/local/one" >"$tmp/out/ext4" && tree "$tmp/mnt/one" >"$tmp/out/mount"
same "one process: ext4 and the mount" "$tmp/out/ext4" "$tmp/out/mount"
say "one process: $((OPS / 10)) operations, $(grep -c '^[a-z] ' "$tmp/out/mount") entries, seed $SEED"

for ((round = 1; round <= ROUNDS; round++)); do
	start=$SECONDS
	SEED=$((SEED + 1))
	fsstress "$tmp/mnt/many" $((OPS / ROUNDS)) "$PROCESSES"
	seconds=$((SECONDS - start))
	tree "$tmp/mnt/many" times >"$tmp/out/mount" && tree "$export/many" times >"$tmp/out/server"
	same "round $round: the mount and the server" "$tmp/out/mount" "$tmp/out/server"
	unmount "$tmp/mnt"
	mount_rpycfs "$tmp/mnt"
	tree "$tmp/mnt/many" times >"$tmp/out/again"
	same "round $round: the mount made anew and the server" "$tmp/out/again" "$tmp/out/server"
	say "round $round: $((OPS / ROUNDS)) operations of $PROCESSES processes, $seconds s, $(grep -c '^[a-z] ' "$tmp/out/server") entries"
	rm -rf "$tmp/mnt/many"
	[ ! -e "$export/many" ] || bad "round $round: rm -rf leaves something"
done
verdict
