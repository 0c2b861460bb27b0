# Shared by the proofs, tools/*.sh: a daemon, mounts of it, and the end of both. To
# be sourced with the root of the repository as the current directory.
#
# What it sets:
#   tmp      a directory for everything, on the file system to compare with
#   export   what the daemon serves, tmp/export
#   failures how many things were wrong so far
# Knobs of every proof, from the environment:
#   RUN_AS=daemon   whose rights decide on the server: daemon, account or caller
#   OPTIONS=        further options of every mount
#   TMPDIR=/tmp     where tmp is made; it has to be ext4
#   RPYCFS_BIN=     a directory with the programs; they are built unless it is given
#   KEEP=           not empty: tmp stays, for a look
# shellcheck shell=bash

export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin" LC_ALL=C.UTF-8
: "${RUN_AS:=daemon}" "${OPTIONS:=}" "${RPYCFS_BIN:=}" "${KEEP:=}"

name=$(basename "$0" .sh)
failures=0
pids=()    # programs at work that were started and may still run
daemons=() # and daemons
tmp='' export=''

say() { printf '%s: %s\n' "$name" "$*"; }
die() { say "$*" >&2 && exit 2; }
# bad TEXT...: says what was wrong and counts it.
bad() {
	say "WRONG: $*"
	failures=$((failures + 1))
}
# verdict: the last line, and the exit code.
verdict() {
	[ "$failures" = 0 ] || { say "FAILED, $failures wrong" && exit 1; }
	say "PASSED"
	exit 0
}

# need COMMAND:PACKAGE...: installs Debian's packages for what is missing. An entry
# that begins with / names a file.
need() {
	local entry packages=()
	for entry in "$@"; do
		case $entry in
		/*) [ -e "${entry%%:*}" ] || packages+=("${entry##*:}") ;;
		*) type -P "${entry%%:*}" >/dev/null || packages+=("${entry##*:}") ;;
		esac
	done
	[ ${#packages[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || die "please install as root: ${packages[*]}"
	say "installing ${packages[*]}"
	local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120
		install --no-install-recommends "${packages[@]}")
	"${install[@]}" >/dev/null 2>&1 || { apt-get -qq update && "${install[@]}"; } >&2 || die "could not install ${packages[*]}"
}

# eventually SECONDS COMMAND...: until the command succeeds.
eventually() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}

# proof_start: makes tmp, builds, and sees to the end.
proof_start() {
	[ "$(id -u)" = 0 ] || die "has to be run as root"
	need fusermount3:fuse3 setpriv:util-linux pgrep:procps perl:perl
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/rpycfs-$name.XXXXXX")
	export=$tmp/export
	trap proof_end EXIT
	trap 'exit 130' INT TERM
	[ "$(stat -f -c %T "$tmp")" = ext2/ext3 ] || die "$tmp is not on ext4; set TMPDIR"
	chmod 755 "$tmp"
	mkdir "$export" "$tmp/local" "$tmp/home" "$tmp/out"
	if [ -z "$RPYCFS_BIN" ]; then
		RPYCFS_BIN=$tmp/bin
		go build -trimpath -o "$RPYCFS_BIN/" ./cmd/... || die "does not build"
	fi
	export PATH="$RPYCFS_BIN:$PATH" HOME=$tmp/home # after the build, which has its caches there
}

# proof_end ends what was started, by process id, and unmounts what is below tmp.
proof_end() {
	local status=$? at pid
	trap - EXIT
	for pid in "${pids[@]}"; do stop "$pid"; done
	while read -r at; do
		timeout 30 umount.rpycfs "$at" 2>/dev/null || timeout 10 umount "$at" 2>/dev/null || {
			# Programs still work there, or the daemon is gone and they wait.
			for pid in $(mount_process "$at"); do kill -KILL "$pid"; done
			umount -l "$at"
		}
	done < <(awk -v tmp="$tmp/" 'index($2, tmp) == 1 { print $2 }' /proc/self/mounts | tac)
	for pid in "${daemons[@]}"; do stop "$pid"; done
	[ "$status" = 0 ] || grep -v level=INFO "$tmp/daemon.log" | tail -n 20 | sed 's/^/    daemon: /' >&2
	# Nothing may be removed through a mount that would not go away.
	if [ -n "$KEEP" ] || grep -q " $tmp/" /proc/self/mounts; then
		say "left: $tmp" >&2
	else
		rm -rf "$tmp"
	fi
	exit "$status"
}

# stop PID ends a child and waits for it, 20 s at most, then kills it.
stop() {
	kill "$1" 2>/dev/null || return 0
	eventually 20 eval "! kill -0 $1" || kill -KILL "$1"
	wait "$1" 2>/dev/null || true
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# serve [LOGIN [ACCOUNT]]: a daemon on the export, for the user LOGIN (root) and with
# the rights of ACCOUNT (root); sets port and daemon, its process.
serve() {
	local login=${1:-root} account=${2:-root} rights=() as=()
	# In the mode caller the client's users are believed; root is root.
	case $RUN_AS in
	caller) rights=(--trusted --no-root-squash) ;;
	account) [ "$login" != root ] || rights=(--no-root-squash) ;;
	esac
	[ "$account" = root ] || as=(setpriv --reuid="$account" --regid="$(id -g "$account")" --clear-groups)
	if [ ! -e "$tmp/users" ]; then
		local password
		password=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
		echo "$password" | rpycfs passwd -f "$tmp/users" -a "$login" "${rights[@]}" >/dev/null || die "no users file"
		(umask 077 && printf 'username=%s\npassword=%s\n' "$login" "$password" >"$tmp/credentials")
		mkdir -m 700 "$tmp/state"
		chown "$account" "$tmp/users" "$tmp/state"
	fi
	port=$((20000 + RANDOM % 10000))
	while listening "$port"; do port=$((port + 1)); done
	"${as[@]}" rpycfsd "$export" --listen="127.0.0.1:$port" --users="$tmp/users" --state="$tmp/state" --no-chat \
		--run-as="$RUN_AS" >>"$tmp/daemon.log" 2>&1 &
	daemon=$!
	daemons+=("$daemon")
	eventually 20 listening "$port" || die "the daemon does not listen"
}

# mount_rpycfs DIR [OPTION...] mounts the daemon's tree.
mount_rpycfs() {
	local dir=$1 option options=(-o "port=$port,timeo=20,credentials=$tmp/credentials,log=$tmp/mount.log,suid,dev")
	shift
	for option in ${OPTIONS//,/ } "$@"; do options+=(-o "$option"); done
	mkdir -p "$dir"
	timeout 60 mount.rpycfs 127.0.0.1:/ "$dir" "${options[@]}" || die "it did not mount"
}

# unmount DIR
unmount() { timeout 60 umount.rpycfs "$1" || bad "$1 does not unmount"; }

# mount_process DIR: the process behind a mount, whose command line names it.
mount_process() {
	local pid
	for pid in $(pgrep -x mount.rpycfs); do
		if tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF -- "$1"; then echo "$pid"; fi
	done
}

# mount_sshfs DIR [OPTION...] mounts the export through ssh and an sshd of its own,
# which ssh starts: same cipher and same data path as over a port.
mount_sshfs() {
	local dir=$1 option options=()
	shift
	need sshfs:sshfs ssh:openssh-client sshd:openssh-server /usr/lib/openssh/sftp-server:openssh-sftp-server
	mkdir -p /run/sshd "$dir" "$tmp/ssh"
	if [ ! -e "$tmp/ssh/config" ]; then
		chmod 700 "$tmp/ssh"
		ssh-keygen -q -t ed25519 -N '' -f "$tmp/ssh/host" && ssh-keygen -q -t ed25519 -N '' -f "$tmp/ssh/user"
		printf '%s\n' "HostKey $tmp/ssh/host" "AuthorizedKeysFile $tmp/ssh/user.pub" "StrictModes no" "UsePAM no" \
			"PermitRootLogin yes" "Subsystem sftp /usr/lib/openssh/sftp-server" >"$tmp/ssh/sshd"
		printf '%s\n' "Host server" "User root" "IdentityFile $tmp/ssh/user" "IdentitiesOnly yes" "HostKeyAlias server" \
			"ProxyCommand $(command -v sshd) -i -f $tmp/ssh/sshd" "UserKnownHostsFile $tmp/ssh/known" \
			"StrictHostKeyChecking accept-new" "LogLevel ERROR" >"$tmp/ssh/config"
	fi
	for option in "$@"; do options+=(-o "$option"); done
	timeout 60 sshfs "server:$export" "$dir" -F "$tmp/ssh/config" "${options[@]}" || die "sshfs did not mount"
}

# tree DIR [times]: all that a program can ask about what is below, one entry a line,
# with the hash of its bytes and its attributes; with modification times if wanted.
tree() (
	hash=$PWD/tools/lib/hash.pl
	cd "$1" || exit 1
	entries=$(find . -mindepth 1 -type d -printf "%y %m %U:%G %n ${2:+%T@} %P\\n" -o \
		-printf "%y %m %U:%G %n %s ${2:+%T@} %P -> %l\\n") || exit 1
	sort <<<"$entries"
	find . -type f -print0 | LC_ALL=C sort -z | perl "$hash" || exit 1
	find . -mindepth 1 \( -type f -o -type d \) -print0 | LC_ALL=C sort -z |
		xargs -0r getfattr -h -d -m '^(user|trusted|system\.posix_acl|security\.capability)' -e hex -- || exit 1
)

# same WHAT FILE FILE: two listings by tree.
same() {
	if [ ! -s "$2" ]; then
		bad "$1: nothing to compare"
	elif ! cmp -s "$2" "$3"; then
		bad "$1: they differ"
		diff "$2" "$3" | head -n 20
	fi
}
