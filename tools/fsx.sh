#!/bin/bash
# Proves that a file on the mount keeps every byte through random operations: fsx
# reads, writes, maps, truncates, punches, copies, and compares all data with what
# it has in memory.
#
#     tools/fsx.sh XFSTESTS-CHECKOUT [VARIANT...]
#
# Every variant runs on the mount; one that fails there is tried on ext4 with the
# same seed, and counts unless it fails in the same operation there. What is missing
# is installed from Debian, as root.
# Knobs: OPS=1000000 operations of the variant "all", and a tenth in each of the
# others, SEED=1, and those of lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
. tools/lib/xfstests.sh
: "${OPS:=1000000}" "${SEED:=1}"

# Options of each variant. A large file, so that its pages do not all stay in the
# cache; direct operations are aligned to pages.
declare -A variants=(
	[all]=""
	[large]="-l 8388608 -o 1048576"
	[nomap]="-R -W"
	[reopen]="-c 50 -y"
	[invalidate]="-f"
	[direct]="-Z -R -W -r 4096 -w 4096 -t 4096"
	[aio]="-A -Z -R -W -r 4096 -w 4096 -t 4096"
	[uring]="-U"
)
checkout=${1:-}
shift || true
[ $# -gt 0 ] || set -- all large nomap reopen invalidate direct aio uring

# fsx DIR VARIANT OPERATIONS: on a file in DIR, its output in tmp/out. An operation that takes
# 10 ms on average is taken for a hanging one.
fsx() {
	local dir=$1 variant=$2 ops=$3 options
	read -ra options <<<"${variants[$variant]}"
	timeout $((60 + ops / 100)) "$tmp/fsx" -q -N "$ops" -S "$SEED" "${options[@]}" -P "$tmp/out" "$dir/fsx-$variant" \
		>"$tmp/out/$variant" 2>&1
}

proof_start
build_xfstests "$checkout"
serve root
mount_rpycfs "$tmp/mnt"
for variant in "$@"; do
	[ -v "variants[$variant]" ] || die "no variant $variant; there are ${!variants[*]}"
	start=$SECONDS ops=$((OPS / 10))
	[ "$variant" != all ] || ops=$OPS
	if fsx "$tmp/mnt" "$variant" "$ops"; then
		cmp "$tmp/mnt/fsx-$variant" "$export/fsx-$variant" || bad "$variant: the server has other bytes"
		say "$variant: $ops operations, $((SECONDS - start)) s"
	else
		bad "$variant: exit code $? on the mount"
		tail -n 30 "$tmp/out/$variant"
		if fsx "$tmp/local" "$variant" "$ops"; then say "$variant: ext4 passes"; else say "$variant: ext4 fails as well"; fi
	fi
done
verdict
