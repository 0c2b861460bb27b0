# Part of tools/programs.sh.
# shellcheck shell=bash disable=SC2154 # tmp, ROWS are of programs.sh

sqlite_number='[0-9][0-9]*' # what a writer prints for a row that is committed

prove_sqlite() {
	need sqlite3:sqlite3
	local journal
	for journal in delete truncate persist; do sqlite_rollback "$journal"; done
	sqlite_wal
}

# sqlite_rollback JOURNAL: four writers and two readers on both mounts, then writers
# that are killed while they write.
sqlite_rollback() {
	local journal=$1 db=sqlite-$1.db i writers=() readers=()
	sqlite_make "$tmp/mnt1/$db" "$journal" || return
	for i in 1 2 3 4; do
		sqlite_write "$tmp/mnt$((i % 2 + 1))/$db" "$i" "$journal" "" >"$tmp/out/sqlite.$i" 2>&1 &
		writers+=($!)
	done
	for i in 1 2; do
		sqlite_read "$tmp/mnt$i/$db" "${writers[@]}" >"$tmp/out/sqlite.reader$i" 2>&1 &
		readers+=($!)
	done
	pids+=("${writers[@]}" "${readers[@]}")
	for i in 1 2 3 4; do
		wait "${writers[i - 1]}" || { bad "sqlite $journal: writer $i, exit code $?" && tail -n 3 "$tmp/out/sqlite.$i"; }
	done
	for i in 1 2; do
		wait "${readers[i - 1]}" || { bad "sqlite $journal: reader $i" && tail -n 3 "$tmp/out/sqlite.reader$i"; }
	done
	sqlite_rows "$db" "$((4 * ROWS))" "$((4 * ROWS))"
	sqlite_killed "$db" "$journal"
	say "sqlite: $journal: four writers on $MOUNTS mounts, $ROWS transactions each; $(grep -ch ^whole "$tmp/out"/sqlite.reader? | paste -sd+) looks of readers"
}

# sqlite_killed DB JOURNAL: each writer is killed after some commits; what it has said
# to be committed is there for the other mount, at most one row more.
sqlite_killed() {
	local i writer said had=$((4 * ROWS))
	for i in 5 6 7 8; do
		rm -f "$tmp/out/sqlite.$i"
		sqlite_write "$tmp/mnt$((i % 2 + 1))/$1" "$i" "$2" "" >"$tmp/out/sqlite.$i" 2>&1 &
		writer=$!
		pids+=("$writer")
		eventually 60 grep -qx "$sqlite_number" "$tmp/out/sqlite.$i" || bad "sqlite $2: writer $i does not begin"
		kill -KILL "$writer" 2>/dev/null
		wait "$writer" 2>/dev/null
		said=$(grep -cx "$sqlite_number" "$tmp/out/sqlite.$i")
		sqlite_rows "$1" "$((had + said))" "$((had + said + 1))"
		had=$(sqlite3 "$tmp/mnt1/$1" '.timeout 60000' 'SELECT count(*) FROM rows')
	done
}

# sqlite_wal: one client at a time has the database for itself. While it has, the
# other one is told that it is locked; when it is killed, the other one goes on.
sqlite_wal() {
	local db=sqlite-wal.db i writer said had=0
	sqlite_make "$tmp/mnt1/$db" wal "PRAGMA locking_mode = EXCLUSIVE;" || return
	for i in 1 2 3 4 5 6; do
		rm -f "$tmp/out/sqlite.$i"
		sqlite_write "$tmp/mnt$((i % 2 + 1))/$db" "$i" wal "PRAGMA locking_mode = EXCLUSIVE;" >"$tmp/out/sqlite.$i" 2>&1 &
		writer=$!
		pids+=("$writer")
		eventually 60 grep -qx "$sqlite_number" "$tmp/out/sqlite.$i" || { bad "sqlite wal: writer $i does not begin" && cat "$tmp/out/sqlite.$i"; }
		if kill -STOP "$writer" 2>/dev/null; then
			sqlite3 "$tmp/mnt$((2 - i % 2))/$db" 'PRAGMA locking_mode = EXCLUSIVE' 'SELECT count(*) FROM rows' >"$tmp/out/sqlite.other" 2>&1 &&
				bad "sqlite wal: two have the database for themselves"
			grep -q 'database is locked' "$tmp/out/sqlite.other" || { bad "sqlite wal: the second is told" && cat "$tmp/out/sqlite.other"; }
		fi
		kill -KILL "$writer" 2>/dev/null
		wait "$writer" 2>/dev/null
		said=$(grep -cx "$sqlite_number" "$tmp/out/sqlite.$i")
		sqlite_rows "$db" "$((had + said))" "$((had + said + 1))" "PRAGMA locking_mode = EXCLUSIVE"
		had=$(sqlite3 "$tmp/mnt1/$db" '.timeout 60000' 'PRAGMA locking_mode = EXCLUSIVE' 'SELECT count(*) FROM rows' | tail -n 1)
	done
	say "sqlite: exclusive WAL: six writers in turn on $MOUNTS mounts, killed, $had rows"
}

# sqlite_make DB JOURNAL PRAGMA: rows, and their number, which each transaction keeps right.
sqlite_make() {
	sqlite3 -bail "$1" "${3:-}" "PRAGMA journal_mode = $2" 'CREATE TABLE rows(writer INT, n INT, text TEXT)' \
		'CREATE INDEX by_writer ON rows(writer, n)' 'CREATE TABLE total(n INT)' 'INSERT INTO total VALUES(0)' >/dev/null ||
		bad "sqlite $2: no database"
}

# sqlite_write DB WRITER JOURNAL PRAGMA prints the number of each row once it is committed.
sqlite_write() {
	{
		# The pragmas print what is set, which is no number of a row.
		printf '.timeout 120000\n%s\nPRAGMA journal_mode = %s;\n' "$4" "$3"
		for ((n = 1; n <= ROWS; n++)); do
			echo "BEGIN IMMEDIATE; INSERT INTO rows VALUES($2, $n, hex(randomblob(200))); UPDATE total SET n = n + 1; COMMIT; SELECT $n;"
		done
	} >"$tmp/out/sqlite.script$2"
	exec sqlite3 -bail "$1" <"$tmp/out/sqlite.script$2"
}

# sqlite_read DB PID...: as long as these live, what is there is whole.
sqlite_read() {
	local db=$1 seen
	shift
	while kill -0 "$@" 2>/dev/null; do
		seen=$(sqlite3 "$db" '.timeout 120000' 'SELECT CASE WHEN (SELECT count(*) FROM rows) = (SELECT n FROM total) THEN "whole" ELSE "half" END') || return
		[ "$seen" = whole ] || { echo "$seen" && return 1; }
		echo whole
	done
}

# sqlite_rows DB LEAST MOST [PRAGMA], seen from both mounts and on the server.
sqlite_rows() {
	local dir seen count
	for dir in "$tmp/mnt1" "$tmp/mnt2" "$export"; do
		seen=$(sqlite3 "$dir/$1" '.timeout 120000' "${4:-}" 'PRAGMA integrity_check' 'SELECT n FROM total' 'SELECT count(*) FROM rows' 2>&1 | grep -v '^exclusive$')
		count=${seen##*$'\n'}
		if [ "$seen" != "$(printf 'ok\n%s\n%s' "$count" "$count")" ] || [ "$count" -lt "$2" ] || [ "$count" -gt "$3" ]; then
			bad "sqlite $1 in ${dir##*/}: ok and twice $2 to $3 rows expected, there is" "$seen"
		fi
	done
}
