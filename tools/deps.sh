#!/bin/bash
# Installs what building, testing and the demo need on Debian and its relatives.
# Does nothing, and says nothing, when everything is there. With "bench" also what
# bench/fsbench compares with.
set -eu

export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"

# command:package
wanted=(
	fusermount3:fuse3
	git:git
	inotifywait:inotify-tools
	gcc:gcc # the race detector
	mandoc:mandoc
	setpriv:util-linux
	sqlite3:sqlite3
	ssh-keygen:openssh-client
	tar:tar
	tmux:tmux # the terminal interface is tested in it
)

[ "${1:-}" != bench ] || wanted+=(
	chrt:util-linux
	ip:iproute2
	rclone:rclone
	sshd:openssh-server
	sshfs:sshfs
)

packages=()
for entry in "${wanted[@]}"; do
	command -v "${entry%%:*}" >/dev/null || packages+=("${entry##*:}")
done
[ -e /usr/include/stdio.h ] || packages+=(libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)

if [ ${#packages[@]} -gt 0 ]; then
	as_root=()
	if [ "$(id -u)" != 0 ]; then
		if ! command -v sudo >/dev/null; then
			echo "deps: please install as root: ${packages[*]}" >&2
			exit 1
		fi
		as_root=(sudo)
	fi
	if ! command -v apt-get >/dev/null; then
		echo "deps: no apt-get here; please install what these Debian packages hold: ${packages[*]}" >&2
		exit 1
	fi
	echo "deps: installing ${packages[*]}"
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120
		install --no-install-recommends "${packages[@]}")
	# The package lists of a fresh machine are empty or old: try again with new ones.
	"${install[@]}" >"$log" 2>&1 || {
		"${as_root[@]}" apt-get -qq update >>"$log" 2>&1 && "${install[@]}" >>"$log" 2>&1
	} || {
		cat "$log" >&2
		echo "deps: could not install ${packages[*]}" >&2
		exit 1
	}
fi

if ! command -v go >/dev/null; then
	echo "deps: Go is missing; 1.26 or later is needed (any Go from 1.21 on fetches it by itself)" >&2
	exit 1
fi
