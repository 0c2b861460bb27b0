#!/bin/bash
# Runs the tests that mount as an ordinary user, for whom fusermount3 does the
# mounting, those of events, of which the kernel tells such a user less, and what is
# opened again after a crash or for a lock, where modes bind such a user. For whoever is not root,
# `go test` has done so already. Everything that the user needs is put into a directory
# of its own, since the checkout may lie where only root can look. What does not depend
# on who mounts has been run by `go test` and is left out: the chat, compiling with a
# cold cache, half of the load, and what several mounts have to do with each other.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || exit 0

user=nobody
tmp=$(mktemp -d /tmp/rpycfs-user.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
mkdir "$tmp/home" "$tmp/tmp"
chown "$user" "$tmp/home" "$tmp/tmp"

# As the packages build them for themselves.
go build -race -buildvcs=false -o "$tmp/e2e-bin/" ./cmd/...
go build -buildvcs=false -o "$tmp/mount-bin/" ./cmd/...
for package in e2e mount internal/fsevents rpycfsd/export; do
	mkdir -p "$tmp/$package"
	go test -c -race -o "$tmp/$package.test" "./$package"
	[ ! -d "$package/testdata" ] || cp -R "$package/testdata" "$tmp/$package/"
done

as_user() {
	setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups \
		env HOME="$tmp/home" TMPDIR="$tmp/tmp" RPYCFS_BIN="$tmp/$package-bin" "$@"
}
export user tmp package
export -f as_user

# udev lets everybody open /dev/fuse; a container without it often does not. Then
# the tests get a device that is open to everybody, in a mount name space of their
# own, so that the machine stays as it is.
own_fuse='
	awk "\$3 ~ /^fuse[.]/ {print \$2}" /proc/mounts | xargs -r umount -l || true # they would not end before this does
	mkdir "$tmp/dev"
	mount -t tmpfs none "$tmp/dev"
	mknod -m 666 "$tmp/dev/fuse" c 10 229
	mount --bind "$tmp/dev/fuse" /dev/fuse
'
around=(bash -euc)
if [ -e /dev/fuse ] && ! as_user test -w /dev/fuse; then
	echo "test-as-user: /dev/fuse is for root only here; using one of our own"
	around=(unshare --mount --propagation private bash -euc)
else
	own_fuse=
fi

skip='TestRealWork/build|^Test([BFH][0-9]|Chat|EchoBot|ManyListeners)|TestScripts/(chat|daemon|passwd|version)'
skip+='|^TestLock(Table|Counters|SQLite|Busy|Fresh|Cut|KilledWhileCut|MountKilled|AfterClose)$'
skip+='|^TestRoundTrips$' # reads DESIGN.md
skip+='|^Test(MoreFilesThanNodes|NothingReadableOnTheWire|NameLocks|NameHandedOver|OpenReplaced|AppendTwoMounts|CloseToOpen|Histories|HistoriesWithFaults|BrokenRecall)$'
export skip RPYCFS_E2E_WORKERS=8
for package in e2e mount internal/fsevents rpycfsd/export; do
	echo "as $user: $package"
	only=.
	[ "$package" != rpycfsd/export ] || only='^Test(OpenedAgain|LockAgainstMode|ExactlyOnce|MadeByProgram)$'
	"${around[@]}" "$own_fuse"'cd "$tmp/$1"; as_user "$tmp/$1.test" -test.timeout 10m -test.run "$2" -test.skip "$skip"' - "$package" "$only"
	[ ! -d "$tmp/dev" ] || rmdir "$tmp/dev"
done
