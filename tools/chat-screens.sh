#!/bin/bash
# Makes the pictures of the chat in docs/img from the real programs: a daemon, two
# users, and the terminal interface in tmux.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"

dir=$(mktemp -d)
socket=$dir/tmux
daemon=
end() {
	tmux -S "$socket" kill-server 2>/dev/null || true
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	rm -rf "$dir"
}
trap end EXIT

go build -o "$dir/" ./cmd/rpycfs ./cmd/rpycfsd ./tools/ansisvg
mkdir "$dir/export" "$dir/home"
export HOME=$dir/home LC_ALL=C.UTF-8 RPYCFS_PASSWORD=only-for-pictures
unset XDG_STATE_HOME XDG_CONFIG_HOME SSH_AUTH_SOCK NO_COLOR
for user in alice bob carol; do
	echo "$RPYCFS_PASSWORD" | "$dir/rpycfs" passwd -f "$dir/users" -a $user
done
port=${PORT:-29912}
"$dir/rpycfsd" "$dir/export" --users="$dir/users" --port=$port --state="$dir/state" 2>"$dir/log" &
daemon=$!

chat() { # chat USER ARG...: as a device of that user
	local user=$1 command=$2
	shift 2
	"$dir/rpycfs" chat "$command" "$user@127.0.0.1:$port" --state="$dir/state-$user" "$@"
}
tmux_() { tmux -S "$socket" -u -f /dev/null "$@"; }
type_() {
	tmux_ send-keys -l "$1"
	tmux_ send-keys Enter
}
# shows TEXT: waits until it is on the screen.
shows() {
	local i
	for ((i = 0; i < 100; i++)); do
		if tmux_ capture-pane -p | grep -qF -- "$1"; then return; fi
		read -rt 0.1 <> <(:) || true
	done
	echo "chat-screens: \"$1\" does not come:" >&2
	tmux_ capture-pane -p >&2
	exit 1
}
# picture NAME TITLE
picture() { tmux_ capture-pane -e -N -p | "$dir/ansisvg" -title "$2" >"docs/img/$1.svg"; }

for ((i = 0; i < 100; i++)); do
	if chat bob rooms >/dev/null 2>&1; then break; fi
	read -rt 0.1 <> <(:) || true
done
chat bob say lobby 'Good morning. The new disks are in; /export/media has moved there.'
chat carol say lobby 'Great! Do our mounts notice?'
chat bob say lobby 'All mounts go on. A cut cable only makes them wait.'
chat bob devices >/dev/null

tmux_ new-session -d -x 92 -y 24 "exec '$dir/rpycfs' chat alice@127.0.0.1:$port --state='$dir/state-alice'"
shows 'alice joined'
type_ '/create releases private what goes into 1.0'
shows '#releases · private'
type_ '/invite carol'
shows 'alice invited carol'
chat carol say releases 'The changelog is ready for review.'
shows 'ready for review'
type_ '/join lobby'
shows 'Do our mounts notice?'
type_ '/topic the new file server'
shows 'set the topic'
type_ 'They did not. 昨夜のコピーもそのまま続いています。'
shows '<alice> They did not.'
chat carol say --action lobby 'applauds'
chat bob say @alice 'Coffee at ten?'
chat carol say releases 'Two mounts on one machine: tested.'
chat carol say releases 'And the tests are green.'
shows 'carol applauds'
tmux_ send-keys -l 'carol: see you at'
shows 'see you at'
picture chat 'A room in the terminal: rooms on the left, messages on the right'

tmux_ send-keys C-c
type_ '/search mounts'
shows 'tested'
picture chat-search 'Search results from all rooms'
tmux_ send-keys Escape
shows 'carol applauds'

type_ '/create keys sealed'
shows '#keys · sealed'
type_ '/invite bob'
shows 'alice invited bob'
type_ 'The new passphrase is in the safe.'
shows '<alice> The new passphrase'
chat bob say keys 'Seen it, thanks.'
shows 'Seen it'
type_ '/verify bob'
shows '/verify bob yes'
picture chat-sealed 'A sealed room, whose messages the server cannot read, and the fingerprint to compare'
