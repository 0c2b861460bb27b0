#!/bin/bash
# Runs the tests that mount as an ordinary user, for whom fusermount3 does the
# mounting. For whoever is not root, `go test` has done so already. Everything
# that the user needs is put into a directory of its own, since the checkout may
# lie where only root can look.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || exit 0

user=nobody
tmp=$(mktemp -d /tmp/rpycfs-user.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
mkdir "$tmp/bin" "$tmp/home" "$tmp/tmp"
chown "$user" "$tmp/home" "$tmp/tmp"

go build -race -buildvcs=false -o "$tmp/bin/" ./cmd/...
for package in e2e mount; do
	mkdir -p "$tmp/$package"
	go test -c -race -o "$tmp/$package.test" "./$package"
	[ ! -d "$package/testdata" ] || cp -R "$package/testdata" "$tmp/$package/"
done

for package in e2e mount; do
	echo "as $user: $package"
	(cd "$tmp/$package" && setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups \
		env HOME="$tmp/home" TMPDIR="$tmp/tmp" RPYCFS_BIN="$tmp/bin" \
		${RPYCFS_SKIP_FUSE:+RPYCFS_SKIP_FUSE="$RPYCFS_SKIP_FUSE"} \
		"$tmp/$package.test" -test.timeout 10m -test.short)
done
