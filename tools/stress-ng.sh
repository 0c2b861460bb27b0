#!/bin/bash
# Proves that what stress-ng does to file systems goes on the mount as on ext4: each
# of its file-system stressors for some seconds on both, verifying. One that passes
# on ext4 and fails on the mount is a failure.
#
#     tools/stress-ng.sh [STRESSOR...]
#
# Where stress-ng leaves something out on the mount because the file system does not
# offer it, its reason is printed.
# What is missing is installed from Debian, as root.
# Knobs: SECONDS_EACH=20 on the mount and as many on ext4, PARALLEL=2 instances, and
# those of lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
: "${SECONDS_EACH:=20}" "${PARALLEL:=2}"

# These have file systems of their own and nothing to do with --temp-path.
elsewhere=' binderfs bind-mount procfs '

# stress DIR STRESSOR: what stress-ng says goes to tmp/out; true if it found nothing.
stress() {
	local dir=$1 stressor=$2 log
	log=$tmp/out/$stressor.$(basename "$dir")
	timeout -k 10 $((SECONDS_EACH * 3 + 60)) stress-ng "--$stressor" "$PARALLEL" --timeout "$SECONDS_EACH" --temp-path "$dir" \
		--verify --metrics-brief --oomable >"$log" 2>&1
}

# reason LOG: the line that says why not.
reason() { grep -m 1 -iE 'fail|skip|error|not supported' "$1" | cut -d] -f2- | cut -c1-140; }

proof_start
need stress-ng:stress-ng
if [ $# = 0 ]; then
	read -ra all <<<"$(stress-ng --class 'filesystem?' 2>&1 | sed -n 's/.*stressors: *//p')"
	set -- "${all[@]}"
fi
[ $# -gt 0 ] || die "stress-ng names no stressors"
serve root
mount_rpycfs "$tmp/mnt"
passed=0
for stressor in "$@"; do
	[ "${elsewhere/ $stressor /}" = "$elsewhere" ] || continue
	if ! stress "$tmp/local" "$stressor"; then
		say "$stressor: not on ext4:$(reason "$tmp/out/$stressor.local")"
	elif stress "$tmp/mnt" "$stressor"; then
		passed=$((passed + 1))
		say "$stressor: passes$(reason "$tmp/out/$stressor.mnt" | sed "s/^/,/")"
	else
		bad "$stressor: on the mount"
		grep -iE 'fail|error|warn|skip' "$tmp/out/$stressor.mnt" | head -n 10
	fi
	mountpoint -q "$tmp/mnt" || die "$stressor has ended the mount"
	find "$tmp/local" "$tmp/mnt" -mindepth 1 -delete || bad "$stressor: what it left cannot be removed"
done
say "$passed stressors pass on the mount"
verdict
