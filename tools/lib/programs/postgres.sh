# Part of tools/programs.sh.
# shellcheck shell=bash disable=SC2154 # tmp, RUN_AS, SECONDS_EACH are of programs.sh

prove_postgres() {
	need /usr/lib/postgresql:postgresql setpriv:util-linux
	PATH="$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1):$PATH"
	local data=$tmp/pg/data owner=()
	# The server of the database insists on a directory of its own. In the modes in which
	# the daemon gives none away, the mount shows everything as of that user.
	[ "$RUN_AS" = caller ] || owner=("uid=$(id -u postgres)" "gid=$(id -g postgres)")
	mount_rpycfs "$tmp/pg" allow_other "${owner[@]}"
	mkdir -m 700 "$data" "$tmp/out/pg"
	chown postgres "$tmp/out/pg" "$data" 2>/dev/null
	chmod 711 "$tmp/out"

	as_postgres initdb -k -A trust -D "$data" >"$tmp/out/initdb" 2>&1 || { bad "initdb: exit code $?" && tail "$tmp/out/initdb" && return; }
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$tmp/out/pg'" >>"$data/postgresql.conf"
	pg_start || { bad "postgres does not start" && tail "$tmp/out/pg/log" && return; }
	as_postgres pgbench -h "$tmp/out/pg" -q -i -s 5 postgres >"$tmp/out/pgbench" 2>&1 || { bad "pgbench -i" && tail "$tmp/out/pgbench" && return; }
	pgbench "$SECONDS_EACH" || bad "pgbench: exit code $?"
	say "postgres: $(grep -E '^tps' "$tmp/out/pgbench"), $(pg_count) transactions"
	pg_killed
	pg_whole
	as_postgres pg_ctl -D "$data" -w -m fast stop >/dev/null || bad "postgres does not stop"
	as_postgres pg_checksums -D "$data" --check >"$tmp/out/checksums" 2>&1 || { bad "pg_checksums" && cat "$tmp/out/checksums"; }
	say "postgres: $(grep -E '^Blocks scanned' "$tmp/out/checksums"), $(grep -E '^Bad' "$tmp/out/checksums")"
	unmount "$tmp/pg"
}

as_postgres() (cd / && setpriv --reuid postgres --regid postgres --clear-groups "$@")
sql() { as_postgres psql -h "$tmp/out/pg" -XAtq -c "$1" postgres; }
pg_count() { sql 'select count(*) from pgbench_history'; }
pg_start() { as_postgres pg_ctl -D "$data" -w -t 120 -l "$tmp/out/pg/log" start >/dev/null; }
# -n: what was done before stays.
pgbench() { as_postgres pgbench -h "$tmp/out/pg" -n -c 4 -T "$1" postgres >"$tmp/out/pgbench" 2>&1; }

# pg_killed kills all processes of the database while it works, and starts it again.
pg_killed() {
	local before pid postmaster after
	before=$(pg_count)
	pgbench 600 &
	local client=$!
	pids+=("$client")
	eventually 60 more_than "$((before + 100))" || bad "postgres: no transactions before the kill"
	before=$(pg_count)
	postmaster=$(head -n 1 "$data/postmaster.pid")
	for pid in "$postmaster" $(cat "/proc/$postmaster/task/$postmaster/children"); do kill -KILL "$pid"; done
	wait "$client" && bad "pgbench did not notice the kill"
	eventually 30 eval "! kill -0 $postmaster" || bad "the killed postgres is still there"
	pg_start || { bad "postgres does not start after a kill" && tail "$tmp/out/pg/log"; }
	after=$(pg_count)
	[ "${after:-0}" -ge "$before" ] || bad "postgres: $before transactions before the kill, $after after it"
	grep -q 'redo done' "$tmp/out/pg/log" || bad "postgres: nothing says that it recovered"
	say "postgres: killed and recovered, $after transactions"
}
more_than() { [ "$(pg_count)" -gt "$1" ]; }

# pg_whole: sums that every transaction keeps equal, indexes and heaps.
pg_whole() {
	local sums
	sums=$(sql 'select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
		(select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history)')
	[ "$(tr '|' '\n' <<<"${sums:-none|0}" | sort -u | wc -l)" = 1 ] || bad "postgres: the sums differ: $sums"
	as_postgres pg_amcheck -h "$tmp/out/pg" --install-missing --heapallindexed --parent-check postgres >"$tmp/out/amcheck" 2>&1 ||
		{ bad "pg_amcheck" && head "$tmp/out/amcheck"; }
}
