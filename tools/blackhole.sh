#!/bin/bash
# How long a mount takes to go on when a link that swallowed everything is back. Needs
# root and iproute2: the daemon runs in a network name space of its own, where a route
# swallows what is for the client. Told: the seconds that the link is gone, several.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- 1 3 4 6 9 20 40

tmp=$(mktemp -d /tmp/rpycfs-blackhole.XXXXXX)
net=rpycfs$$ daemon=
cleanup() {
	timeout 20 "$tmp/bin/umount.rpycfs" -l "$tmp/mnt" || true
	[ -z "$daemon" ] || kill "$daemon" || true
	ip link del "$net" 2>/dev/null || true
	ip netns del "$net" || true
	rm -rf "$tmp"
}
trap cleanup EXIT
mkdir "$tmp/bin" "$tmp/export" "$tmp/mnt"
go build -buildvcs=false -o "$tmp/bin/" ./cmd/...
for ((i = 1; i <= $#; i++)); do echo "$i" >"$tmp/export/$i"; done
(umask 077 && echo secret >"$tmp/password")

ip netns add "$net"
ip link add "$net" type veth peer name inside netns "$net"
ip addr add 10.213.7.1/24 dev "$net"
ip link set "$net" up
ip -n "$net" addr add 10.213.7.2/24 dev inside
ip -n "$net" link set inside up
ip netns exec "$net" "$tmp/bin/rpycfsd" "$tmp/export" --listen=10.213.7.2:19912 --user=foo \
	--password-file="$tmp/password" --state="$tmp/state" >"$tmp/daemon.log" 2>&1 &
daemon=$!
for _ in {1..50}; do
	(echo >/dev/tcp/10.213.7.2/19912) 2>/dev/null && break
	sleep 0.2
done
HOME=$tmp "$tmp/bin/mount.rpycfs" foo@10.213.7.2:/ "$tmp/mnt" \
	-o "password-file=$tmp/password,hostkey=accept-new,timeo=20,log=$tmp/mount.log"

i=0
for gone in "$@"; do
	i=$((i + 1))
	ip -n "$net" route add blackhole 10.213.7.1/32
	(cat "$tmp/mnt/$i" >/dev/null && date +%s%3N >"$tmp/done") &
	waits=$!
	sleep "$gone"
	back=$(date +%s%3N)
	ip -n "$net" route del blackhole 10.213.7.1/32
	wait "$waits"
	echo "gone for $gone s: goes on after $(($(cat "$tmp/done") - back)) ms"
	sleep 1
done
