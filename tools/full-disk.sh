#!/bin/bash
# Proves that a full disk, a quota and set-id bits hold through the mount, whoever
# serves: what an ordinary user meets on a small ext4 with reserved blocks, and on a
# disk with a quota, that user has to meet on a mount of it, in each of the daemon's
# modes.
#
#     tools/full-disk.sh [daemon|account|caller]...
#
# All three modes unless some are named. In the mode daemon the daemon runs as that
# ordinary user, in the others as root; in the mode caller root works on the mount as
# well, and may what root may on ext4. The quota is the user's own on ext4 where the
# kernel has such quotas, otherwise a group's limit on btrfs. What is missing is
# installed from Debian, as root.
# Knobs: WHO=games, the ordinary user; QUOTA_MIB=8; and those of lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
: "${WHO:=games}" "${QUOTA_MIB:=8}"
[ $# -gt 0 ] || set -- daemon account caller

as_who() { setpriv --reuid="$WHO" --regid="$(id -g "$WHO")" --clear-groups "$@"; }

# disk KIND: a fresh file system at the export; kind is small, with a quarter for root
# only, or limited, with a quota.
disk() {
	rm -f "$tmp/image"
	if [ "$1" = small ]; then
		truncate -s 32M "$tmp/image" && mkfs.ext4 -q -F -m 25 -b 1024 "$tmp/image" && mount -o loop "$tmp/image" "$export"
	else
		user_quota || group_quota
	fi || die "no $1 disk to be had"
	mkdir -m 777 "$export/work"
	chmod 755 "$export"
}

user_quota() {
	truncate -s 64M "$tmp/image" && mkfs.ext4 -q -F -O quota -E quotatype=usrquota "$tmp/image" &&
		mount -o loop,usrquota "$tmp/image" "$export" 2>/dev/null &&
		setquota -u "$WHO" 0 $((QUOTA_MIB * 1024)) 0 0 "$export"
}

group_quota() {
	rm -f "$tmp/image"
	truncate -s 256M "$tmp/image" && mkfs.btrfs -q "$tmp/image" >/dev/null 2>&1 && mount -o loop "$tmp/image" "$export" &&
		btrfs quota enable "$export" && btrfs qgroup limit "${QUOTA_MIB}M" 0/5 "$export"
}

# outcomes KIND DIR, line by line. Numbers that depend on where a block happens to lie
# are rounded.
outcomes() {
	case $1 in
	small) fill "$2/work" && set_id "$2/work" ;;
	limited) quota "$2/work" ;;
	esac
} 2>&1

# fill DIR: until there is no space, for that user.
fill() {
	local file=$1/fill free
	as_who dd if=/dev/zero of="$file" bs=64k status=none 2>&1 | sed 's/.*: //'
	free=$(stat -f -c '%a' "$1")
	echo "for an ordinary user are left, in blocks of 64 KiB: $((free / 64))"
	free=$(stat -f -c '%f' "$1")
	echo "for root are left, in MiB: $((free / 1024))"
	as_who sh -c "echo more >$1/more" 2>&1 | sed 's/.*: //'
	echo "size of the second file: $(stat -c %s "$1/more" 2>&1 | sed 's/.*: //')"
	as_who rm -f "$file" "$1/more"
	as_who dd if=/dev/zero of="$file" bs=64k count=4 status=none && echo "after it was removed there is space"
	as_who rm -f "$file"
}

# quota DIR: until that user has no more.
quota() {
	as_who dd if=/dev/zero of="$1/quota" bs=64k count=$((QUOTA_MIB * 32)) conv=fsync status=none 2>&1 | sed 's/.*: //'
	echo "size up to the quota, in MiB: $((($(stat -c %s "$1/quota") + 524288) >> 20))"
	as_who fallocate -l $((QUOTA_MIB * 2))M "$1/quota" 2>&1 | sed 's/.*: //'
	as_who rm -f "$1/quota" && sync -f "$export"
	as_who dd if=/dev/zero of="$1/quota" bs=64k count=4 conv=fsync status=none && echo "after it was removed there is space"
	as_who rm -f "$1/quota" && sync -f "$export"
}

# set_id DIR: the bits go with a write, a truncation and a change of owner.
set_id() {
	local how
	for how in "echo x >>F" "truncate -s 1 F" "chown $WHO F" "chmod u=rwx,g=rx,o=rx F" "dd if=F of=F conv=notrunc count=1 status=none"; do
		echo set >"$export/work/set"
		chown "$WHO:$(id -g "$WHO")" "$export/work/set" && chmod 6755 "$export/work/set"
		settled "$1/set"
		as_who sh -c "${how//F/$1/set}" 2>&1 | sed 's/.*: //'
		echo "set-id bits after ${how//F/FILE}: $(stat -c %a "$export/work/set")"
		rm "$export/work/set"
	done
}

# settled FILE: a mount may show for a second what was there before.
settled() { eventually 20 test -u "$1" || bad "$1 does not show its set-id bit"; }

# of_root DIR: what is root's own right.
of_root() {
	as_who dd if=/dev/zero of="$1/work/fill" bs=64k status=none 2>/dev/null
	dd if=/dev/zero of="$1/work/root" bs=64k count=16 status=none 2>&1 | sed 's/.*: //'
	echo "root gets of the reserve, in KiB: $(($(stat -c %s "$1/work/root") / 1024))"
	echo set >"$1/work/set" && chmod 6755 "$1/work/set" && echo more >>"$1/work/set"
	echo "set-id bits after a write of root: $(stat -c %a "$export/work/set")"
	rm -f "$1/work/set" "$1/work/fill" "$1/work/root"
} 2>&1

# serve_as MODE: a daemon for that user, in the mode daemon also as that user.
serve_as() {
	RUN_AS=$1
	rm -rf "$tmp/users" "$tmp/state"
	chown "$WHO" "$export/work"
	case $1 in
	daemon) serve "$WHO" "$WHO" ;;
	account) serve "$WHO" ;;
	caller) serve ;;
	*) die "no mode $1" ;;
	esac
}

# compare KIND MODE...: on a disk of that kind, without a mount and in each mode.
compare() {
	local kind=$1 mode
	shift
	disk "$kind"
	outcomes "$kind" "$export" >"$tmp/out/ext4.$kind"
	[ "$kind" != small ] || of_root "$export" >"$tmp/out/ext4.root"
	sed 's/^/    without a mount: /' "$tmp/out/ext4.$kind"
	for mode in "$@"; do
		serve_as "$mode"
		mount_rpycfs "$tmp/mnt" allow_other
		outcomes "$kind" "$tmp/mnt" >"$tmp/out/$mode"
		same "$kind disk, --run-as=$mode" "$tmp/out/ext4.$kind" "$tmp/out/$mode"
		if [ "$kind.$mode" = small.caller ]; then
			of_root "$tmp/mnt" >"$tmp/out/root"
			same "$kind disk, --run-as=$mode, root" "$tmp/out/ext4.root" "$tmp/out/root"
		fi
		unmount "$tmp/mnt"
		stop "$daemon"
		say "$kind disk, $(stat -f -c %T "$export"), --run-as=$mode: compared"
	done
	umount "$export" || die "the disk does not unmount"
}

proof_start
need mkfs.ext4:e2fsprogs setquota:quota mkfs.btrfs:btrfs-progs
id "$WHO" >/dev/null || die "no user $WHO"
compare small "$@"
compare limited "$@"
verdict
