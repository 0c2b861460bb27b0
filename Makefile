# Build, test and install rpycfs. Every target works in a fresh clone; those that
# need more than Go install it themselves through `deps`.

SHELL      := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
# A program with the race detector otherwise stays for a second after its end.
export GORACE := atexit_sleep_ms=50

GO       ?= go
PREFIX   ?= /usr/local
# mount(8) and umount(8) look for their helpers in /sbin only: mount.TYPE with the
# type that was asked for, umount.TYPE with the one in the mount table, which it only
# reads for mounts that mount(8) has made a note of (_netdev and the like).
SBINDIR  ?= $(if $(filter /usr,$(PREFIX)),/usr/sbin,/sbin)
UNITDIR  ?= /lib/systemd/system
DESTDIR  ?=
FUZZTIME ?= 10s
TESTTIMEOUT ?= 15m
SOAK     ?= 30m
ifndef SEED
SEED     := $(shell echo $$((1 + RANDOM)))
endif

PROGRAMS := rpycfsd mount.rpycfs umount.rpycfs rpycfs

.PHONY: all build deps test check fuzz soak bench bench-compare demo screens install uninstall generate clean

all: build

build:
	@mkdir -p bin
	$(GO) build -trimpath -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

deps:
	@tools/deps.sh

# The whole suite as whoever calls make; then, for root, the parts that mount
# once more as an ordinary user, where fusermount3 does the mounting.
test: deps
	$(GO) test -race -timeout $(TESTTIMEOUT) ./...
	@tools/test-as-user.sh

check: deps
	@tools/check.sh

# Runs every fuzz target for FUZZTIME.
fuzz:
	@FUZZTIME=$(FUZZTIME) tools/fuzz.sh

# The campaigns of faults at length: two of SOAK each, and one that takes a link away for
# a sixth of that, twice. The same SEED makes the same faults.
soak: deps
	@echo "make soak SOAK=$(SOAK) SEED=$(SEED)"
	RPYCFS_CAMPAIGN=$(SOAK) RPYCFS_CAMPAIGN_SEED=$(SEED) $(GO) test -race -v -timeout 0 \
		-artifacts -outputdir "$$(mktemp -d /tmp/rpycfs-soak.XXXXXX)" ./e2e -run '^TestCampaign'

# The programs of bench/, which compare: as root also mounts, over loopback and
# emulated links, which takes hours (bench/README.md says how it takes less). The Go
# benchmarks of the packages, if they are wanted, by BENCH=regexp.
bench:
ifdef BENCH
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...
else
	$(MAKE) -C bench rpc
	if [ "$$(id -u)" = 0 ]; then $(MAKE) -C bench fs; fi
endif

# The Go benchmarks beside those of another commit, by benchstat.
BASE ?= HEAD
bench-compare:
	@tools/bench-compare.sh $(BASE)

demo: deps build
	@tools/demo.sh

# Draws the README's pictures of the chat from the real programs.
screens: deps
	@tools/chat-screens.sh

# Rewrites the generated parts of PROTOCOL.md.
generate:
	$(GO) run ./internal/protodoc

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(SBINDIR) \
		$(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)$(UNITDIR)
	install -m 755 bin/rpycfs $(DESTDIR)$(PREFIX)/bin/
	install -m 755 bin/rpycfsd bin/mount.rpycfs bin/umount.rpycfs $(DESTDIR)$(PREFIX)/sbin/
	for helper in mount.rpycfs umount.rpycfs; do \
		[ $(DESTDIR)$(SBINDIR)/$$helper -ef $(DESTDIR)$(PREFIX)/sbin/$$helper ] || \
		ln -sfn $(PREFIX)/sbin/$$helper $(DESTDIR)$(SBINDIR)/$$helper; done
	ln -sfn $(PREFIX)/sbin/umount.rpycfs $(DESTDIR)$(SBINDIR)/umount.fuse.rpycfs
	install -m 644 man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	sed 's|@PREFIX@|$(PREFIX)|g' init/rpycfsd.service > $(DESTDIR)$(UNITDIR)/rpycfsd.service
	chmod 644 $(DESTDIR)$(UNITDIR)/rpycfsd.service
	install -m 644 init/rpycfsd.socket $(DESTDIR)$(UNITDIR)/

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/sbin/,rpycfsd mount.rpycfs umount.rpycfs) \
		$(DESTDIR)$(PREFIX)/bin/rpycfs \
		$(addprefix $(DESTDIR)$(SBINDIR)/,mount.rpycfs umount.rpycfs umount.fuse.rpycfs) \
		$(addprefix $(DESTDIR)$(PREFIX)/share/man/,man1/rpycfs.1 man8/rpycfsd.8 man8/mount.rpycfs.8 man8/umount.rpycfs.8) \
		$(DESTDIR)$(UNITDIR)/rpycfsd.service $(DESTDIR)$(UNITDIR)/rpycfsd.socket

clean:
	rm -rf bin
