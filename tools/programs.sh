#!/bin/bash
# Proves that programs which ask much of a file system work on the mount:
#
#     tools/programs.sh [git|sqlite|postgres|rsync|tar]...
#
#   git       2000 operations on a repository, by two mounts in turn, with git fsck; every
#             branch, tag and file has to come out as in the same run on ext4
#   sqlite    writers and readers on two mounts at once, in rollback and exclusive WAL
#             mode, some killed: no row lost that was acknowledged, none half
#   postgres  initdb, pgbench, kill -9, recovery, then its own checks of every page
#   rsync     -aHAX --checksum in and out, nothing to do in a second pass
#   tar       --xattrs --acls of a tree with every file type, there and back
#
# All of them unless some are named; each stands in tools/lib/programs/. What is missing is
# installed from Debian, as root.
# Knobs: SEED=1; OPS=2000 of git; ROWS=500 of each writer of sqlite; SECONDS_EACH=60 of
# pgbench; MOUNTS=2 (1: git and sqlite work on one mount); and those of lib/proof.sh.
set -u
cd "$(dirname "$0")/.." || exit
. tools/lib/proof.sh
: "${SEED:=1}" "${OPS:=2000}" "${ROWS:=500}" "${SECONDS_EACH:=60}" "${MOUNTS:=2}"
[ $# -gt 0 ] || set -- git sqlite postgres rsync tar
for program in "$@"; do
	[[ " git sqlite postgres rsync tar " == *" $program "* ]] || die "no proof with $program"
	# shellcheck source=/dev/null
	. "tools/lib/programs/$program.sh"
done

proof_start
need getfattr:attr setfacl:acl perl:perl
serve root
mount_rpycfs "$tmp/mnt1" acl allow_other
mount_rpycfs "$tmp/mnt2" acl allow_other
[ "$MOUNTS" = 2 ] || { unmount "$tmp/mnt2" && rmdir "$tmp/mnt2" && ln -s mnt1 "$tmp/mnt2"; }
for program in "$@"; do
	start=$SECONDS
	"prove_$program"
	say "$program: $((SECONDS - start)) s"
done
verdict
