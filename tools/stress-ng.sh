#!/bin/bash
# Proves that what stress-ng does to file systems goes on the mount as on ext4: each
# of its file-system stressors for some seconds on both, verifying. One that passes
# on ext4 and fails on the mount is a failure.
#
#     tools/stress-ng.sh [STRESSOR...]
#
# One that stress-ng itself leaves out on the mount, because the kernel or the file
# system does not offer what it stresses, is named with its reason.
# What is missing is installed from Debian, as root.
# Knobs: SECONDS_EACH=20 on the mount and as many on ext4, PARALLEL=2 instances, and
# those of lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
: "${SECONDS_EACH:=20}" "${PARALLEL:=2}"

# These have file systems of their own and nothing to do with --temp-path.
elsewhere=' binderfs bind-mount procfs '
not_supported=3 # exit code of stress-ng

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
serve
mount_rpycfs "$tmp/mnt"
passed=0
for stressor in "$@"; do
	[ "${elsewhere/ $stressor /}" = "$elsewhere" ] || continue
	if ! stress "$tmp/local" "$stressor"; then
		say "$stressor: not on ext4:$(reason "$tmp/out/$stressor.local")"
	else
		stress "$tmp/mnt" "$stressor"
		case $? in
		0) passed=$((passed + 1)) && say "$stressor: passes" ;;
		"$not_supported") say "$stressor: left out on the mount:$(reason "$tmp/out/$stressor.mnt")" ;;
		*)
			bad "$stressor: on the mount"
			grep -iE 'fail|error|warn' "$tmp/out/$stressor.mnt" | head -n 10
			;;
		esac
	fi
	ls "$tmp/mnt" >/dev/null && mountpoint -q "$tmp/mnt" || die "$stressor has ended the mount"
	rm -rf "$tmp"/local/* "$tmp"/mnt/*
done
say "$passed stressors pass on the mount"
verdict
