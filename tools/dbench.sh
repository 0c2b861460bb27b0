#!/bin/bash
# Proves that the load of a file server's clients runs clean on the mount, and shows
# its rate beside the local disk and sshfs: dbench, one file system after the other.
#
#     tools/dbench.sh
#
# It counts that dbench meets no error on the mount and that the server has what the
# mount shows, and nothing about speed. What is missing is installed from
# Debian, as root.
# Knobs: CLIENTS=8, SECONDS_EACH=60, PEER=sshfs (none: without it), and those of
# lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
: "${CLIENTS:=8}" "${SECONDS_EACH:=60}" "${PEER:=sshfs}"

# dbench NAME DIR: true if it met no error.
dbench() {
	local log=$tmp/out/$1
	timeout $((SECONDS_EACH * 3 + 120)) dbench -t "$SECONDS_EACH" -D "$2" "$CLIENTS" >"$log" 2>&1 &&
		grep -q '^Throughput' "$log" && ! complaints "$1" >/dev/null
}

# complaints NAME: what it says about files, not about its own semaphore.
complaints() { grep -iE 'failed|error|mismatch' "$tmp/out/$1" | grep -v 'barrier semaphore'; }

# show NAME: its result, in one line.
show() { say "$1: $(grep '^Throughput' "$tmp/out/$1" || tail -n 1 "$tmp/out/$1")"; }

proof_start
need dbench:dbench getfattr:attr
serve root
mount_rpycfs "$tmp/mnt"
dbench local "$tmp/local" || say "dbench meets errors on ext4, which makes this worth little"
show local
if ! dbench mount "$tmp/mnt"; then
	bad "dbench on the mount"
	complaints mount | head -n 20
fi
show mount
tree "$tmp/mnt" times >"$tmp/out/shown"
tree "$export" times >"$tmp/out/served"
same "what dbench leaves, on the mount and on the server" "$tmp/out/shown" "$tmp/out/served"
rm -rf "$tmp/mnt/clients"
[ ! -e "$export/clients" ] || bad "rm -rf leaves something"
if [ "$PEER" = sshfs ]; then
	mount_sshfs "$tmp/sshfs"
	dbench sshfs "$tmp/sshfs" || say "sshfs: dbench meets errors: $(complaints sshfs | head -n 1)"
	show sshfs
fi
verdict
