# Shared by tools/fsx.sh and tools/fsstress.sh: both programs are in the sources of
# xfstests, of which a public copy has to be there. It is built in tmp.
# shellcheck shell=bash disable=SC2154 # tmp is of proof.sh

# build_xfstests CHECKOUT: makes tmp/fsx and tmp/fsstress.
build_xfstests() {
	[ -e "${1:-}/ltp/fsx.c" ] || die "usage: $0 CHECKOUT, a copy of xfstests (git.kernel.org, fs/xfs/xfstests-dev)"
	need cc:gcc autoconf:autoconf aclocal:automake libtoolize:libtool make:make /usr/include/libaio.h:libaio-dev \
		/usr/include/liburing.h:liburing-dev /usr/include/xfs/xfs.h:xfslibs-dev /usr/include/uuid/uuid.h:uuid-dev \
		/usr/include/sys/acl.h:libacl1-dev
	cp -R "$1" "$tmp/xfstests"
	(
		set -e
		cd "$tmp/xfstests"
		libtoolize -cfi && cp include/install-sh . && aclocal -I m4 && autoheader && autoconf && ./configure
		flags=(-O2 -w -D_GNU_SOURCE -DXFS -DAIO -DURING -DFALLOCATE -DHAVE_COPY_FILE_RANGE -Iinclude -Isrc)
		cc "${flags[@]}" ltp/fsx.c lib/*.c -o "$tmp/fsx" -laio -luring
		cc "${flags[@]}" ltp/fsstress.c lib/*.c -o "$tmp/fsstress" -laio -luring -lpthread -lm
	) >"$tmp/out/build" 2>&1 || { tail -n 20 "$tmp/out/build" >&2 && die "xfstests does not build"; }
}
