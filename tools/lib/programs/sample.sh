# Shared by the proofs with rsync and tar: a tree with every file type.
# shellcheck shell=bash disable=SC2154 # RUN_AS is of proof.sh

# sample_tree DIR makes it. Other owners, devices, set-id bits and what only root may
# attach are in it only where the server lets root be root.
sample_tree() (
	set -e
	mkdir -p "$1/empty" "$1/deep/er/and/er"
	cd "$1"
	long=$(printf 'n%.0s' {1..255})
	printf 'plain\n' >plain
	: >nothing
	head -c 3000000 /dev/zero | tr '\0' x >filled
	ln plain deep/linked
	ln plain deep/er/linked
	ln -s plain symlink
	ln -s /nowhere/at/all dangling
	ln -s "$(printf 'l%.0s' {1..4000})" longlink
	mkfifo fifo
	perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => "socket", Listen => 1) or die $!'
	truncate -s 5G sparse && printf end | dd of=sparse bs=1M seek=16 conv=notrunc status=none && truncate -s 20M sparse
	echo 255 >"$long"
	echo bytes >$'odd \n\t\\ "\xff\xfe name'
	mkdir $'d\xc3\xa4r' && echo x >$'d\xc3\xa4r/-rf'
	for i in {1..300}; do echo "$i" >"deep/er/and/er/$i"; done
	for mode in 0000 0001 0200 0444 0640 0777; do echo $mode >"mode-$mode" && chmod $mode "mode-$mode"; done
	mkdir sticky && chmod 1777 sticky
	setfattr -n user.name -v value plain
	setfattr -n user.large -v "$(printf 'v%.0s' {1..2000})" filled
	setfattr -n user.empty empty
	setfacl -m u:12345:rw,g:54321:r,m::rw filled
	setfacl -d -m u:12345:rwx,o::- empty
	[ "$RUN_AS" != caller ] || sample_of_root
	touch -d '1969-12-31 23:59:58.123456789Z' nothing
	touch -h -d '2001-02-03 04:05:06.987654321Z' symlink
	touch -d '2099-12-31 00:00:00.5Z' empty
)

sample_of_root() {
	mknod block b 7 200
	mknod char c 1 3
	cp plain other && chown 1234:5678 other
	chown -h 1234:5678 dangling
	cp plain setuid && chmod 4755 setuid
	mkdir setgid && chown :5678 setgid && chmod 2775 setgid
	setfattr -n trusted.name -v value plain
	setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= other
}
