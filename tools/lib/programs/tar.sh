# Part of tools/programs.sh.
# shellcheck shell=bash disable=SC2154 # tmp is of programs.sh
. tools/lib/programs/sample.sh

prove_tar() {
	need tar:tar
	local sample=$tmp/local/tar
	sample_tree "$sample" || { bad "tar: no tree to begin with" && return; }
	rm "$sample/socket" # which tar has no form for
	mkdir "$tmp/mnt1/tar" "$tmp/local/tar-back"
	through_tar "$sample" "$tmp/mnt1/tar" || bad "tar into the mount: exit code $?"
	through_tar "$tmp/mnt1/tar" "$tmp/local/tar-back" || bad "tar out of the mount: exit code $?"
	tree "$sample" times >"$tmp/out/tar.sample"
	tree "$tmp/mnt1/tar" times >"$tmp/out/tar.mount"
	tree "$tmp/local/tar-back" times >"$tmp/out/tar.back"
	same "tar: what went in and the mount" "$tmp/out/tar.sample" "$tmp/out/tar.mount"
	same "tar: what went in and what came back" "$tmp/out/tar.sample" "$tmp/out/tar.back"
	say "tar: $(grep -c '^[a-z] ' "$tmp/out/tar.mount") entries"
}

# through_tar FROM TO
through_tar() {
	local archive=$tmp/out/archive.tar all=(--xattrs --xattrs-include='*' --acls --numeric-owner)
	tar "${all[@]}" --format=posix -S -cf "$archive" -C "$1" . && tar "${all[@]}" -p --same-owner -xf "$archive" -C "$2" && rm "$archive"
}
