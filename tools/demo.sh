#!/bin/bash
# Shows a real mount: serves a copy of this source tree on a loopback port,
# mounts it, and checks reads, writes and a change made on the other side. Runs
# as root or as an ordinary user, leaves nothing behind, and ends with exit 0
# only if all that it shows was true. `make demo` calls it.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"

tmp=$(mktemp -d "${TMPDIR:-/tmp}/rpycfs-demo.XXXXXX")
export HOME="$tmp/home" # for known_hosts
unset XDG_CONFIG_HOME XDG_STATE_HOME XDG_RUNTIME_DIR
server=

cleanup() {
	local status=$?
	trap - EXIT
	if mountpoint -q "$tmp/mnt"; then
		bin/umount.rpycfs "$tmp/mnt" || fusermount3 -u -z "$tmp/mnt" || umount -l "$tmp/mnt" || true
	fi
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null && wait "$server" || true
	fi
	[ "$status" = 0 ] || { echo "--- the daemon's log" && cat "$tmp/daemon.log"; } >&2 2>/dev/null || true
	# Nothing may be removed through a mount that would not go away.
	mountpoint -q "$tmp/mnt" || rm -rf "$tmp"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n%s\n' "$*"; }
fail() { echo "demo: $*" >&2 && exit 1; }

# eventually TRIES COMMAND...: until the command succeeds, 0.1 s apart.
eventually() {
	local tries=$1
	shift
	until "$@" >/dev/null 2>&1; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 1
		sleep 0.1
	done
}

# checksums DIR: one line per file, with its mode.
checksums() {
	(cd "$1" && find . -type f -printf '%m %p\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum)
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

mkdir -p "$HOME" "$tmp/export" "$tmp/mnt"
cp -R --preserve=mode ./*.md Makefile go.mod auth client cmd fsproto mount rpc rpycfsd "$tmp/export/"
password=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
port=$((20000 + RANDOM % 10000))
while listening "$port"; do port=$((port + 1)); done

say "A daemon, serving a copy of this source tree ($(find "$tmp/export" -type f | wc -l) files); it makes its key:"
serve=(bin/rpycfsd "$tmp/export" --port="$port" --user=demo --password="$password" --state="$tmp/state")
echo "  \$ ${serve[*]}"
"${serve[@]}" >"$tmp/daemon.log" 2>&1 &
server=$!
eventually 100 listening "$port" || fail "the daemon does not listen"
grep -o 'SHA256:[A-Za-z0-9+/=]*' "$tmp/daemon.log" | head -n 1 | sed 's/^/  its key: /'

say "A mount of it:"
mount=(bin/mount.rpycfs 127.0.0.1:/ "$tmp/mnt" -o port="$port" -o user=demo -o password="$password")
echo "  \$ ${mount[*]}"
"${mount[@]}" 2>"$tmp/mount.log" || { cat "$tmp/mount.log" >&2; fail "it did not mount"; }
findmnt -n -o SOURCE,FSTYPE,TARGET "$tmp/mnt" | sed 's/^/  /'

say "Reading: every byte and mode, on both sides:"
[ "$(checksums "$tmp/mnt")" = "$(checksums "$tmp/export")" ] || fail "the two sides differ"
echo "  $(find "$tmp/mnt" -type f | wc -l) files are the same"
wc -l "$tmp/mnt/README.md" | sed 's/^/  /'

say "Writing through the mount, reading on the server:"
mkdir "$tmp/mnt/new"
echo "written through the mount" >"$tmp/mnt/new/file"
head -c 5000000 /dev/urandom >"$tmp/mnt/new/random"
mv "$tmp/mnt/new/file" "$tmp/mnt/new/renamed"
ln -s renamed "$tmp/mnt/new/link"
[ "$(cat "$tmp/export/new/link")" = "written through the mount" ] || fail "the server has something else"
cmp "$tmp/mnt/new/random" "$tmp/export/new/random"
ls -l "$tmp/export/new" | sed 's/^/  /'

say "A change on the server, seen through the mount:"
echo "and changed on the server" >>"$tmp/export/new/renamed"
eventually 50 grep -q "changed on the server" "$tmp/mnt/new/renamed" || fail "the change does not show"
sed 's/^/  /' "$tmp/mnt/new/renamed"

say "Unmounting; the process behind the mount is gone when this returns:"
echo "  \$ bin/umount.rpycfs $tmp/mnt"
bin/umount.rpycfs "$tmp/mnt"
[ -z "$(ls -A "$tmp/mnt")" ] || fail "something is still mounted"

kill "$server"
wait "$server" || fail "the daemon ended with an error"
server=
say "All of that was checked. These were the two command lines:"
echo "  ${serve[*]}"
echo "  ${mount[*]}"
