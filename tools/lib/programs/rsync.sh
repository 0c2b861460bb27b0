# Part of tools/programs.sh.
# shellcheck shell=bash disable=SC2154 # tmp is of programs.sh
. tools/lib/programs/sample.sh

prove_rsync() {
	need rsync:rsync
	local sample=$tmp/local/rsync copy=(rsync -aHAXS --checksum --numeric-ids --modify-window=-1) # -1: times to the nanosecond
	sample_tree "$sample" || { bad "rsync: no tree to begin with" && return; }
	"${copy[@]}" "$sample/" "$tmp/mnt1/rsync/" || bad "rsync into the mount: exit code $?"
	nothing_to_do "into the mount" "$sample/" "$tmp/mnt1/rsync/"
	"${copy[@]}" "$tmp/mnt1/rsync/" "$tmp/local/rsync-back/" || bad "rsync out of the mount: exit code $?"
	nothing_to_do "out of the mount" "$tmp/mnt1/rsync/" "$tmp/local/rsync-back/"
	nothing_to_do "there and back" "$sample/" "$tmp/local/rsync-back/"
	tree "$sample" times >"$tmp/out/rsync.sample"
	tree "$tmp/mnt1/rsync" times >"$tmp/out/rsync.mount"
	tree "$export/rsync" times >"$tmp/out/rsync.server"
	same "rsync: what went in and the mount" "$tmp/out/rsync.sample" "$tmp/out/rsync.mount"
	same "rsync: the mount and the server" "$tmp/out/rsync.mount" "$tmp/out/rsync.server"
	say "rsync: $(grep -c '^[a-z] ' "$tmp/out/rsync.mount") entries"
}

# nothing_to_do WHAT FROM TO: a second pass finds no difference.
nothing_to_do() {
	local found
	found=$(rsync -aHAX --checksum --numeric-ids --modify-window=-1 --delete --dry-run --itemize-changes "$2" "$3") || bad "rsync $1: second pass, exit code $?"
	[ -z "$found" ] || { bad "rsync $1: the second pass finds" && head -n 20 <<<"$found"; }
}
