package store

import (
	"errors"
	"fmt"
)

// ErrNewer is the error of opening a database that a newer version of the
// program has written.
var ErrNewer = errors.New("the chat database was written by a newer version of this program")

// applicationID marks the file as ours ("rpyc" in ASCII).
const applicationID = 0x72707963

// migrations are the steps from an empty file to the present schema. Step i
// leads to user_version i+1; steps are only ever added. Each runs in a
// transaction of its own.
//
// An entry's key is room<<seqBits | seq: a room's log is one run of rows, and a
// page of it one walk. Its place in the index is another number, which grows
// with time over all rooms, because FTS5 walks a word's entries in that order:
// the newest matches come first without sorting. The column scope of the index
// holds words for the room, the sender and the era (a range of places), so that
// membership and the filters are decided by the same walk, and the walk ends.
// The index keeps no text of its own.
var migrations = []string{`
CREATE TABLE users (
	id   INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE rooms (
	id         INTEGER PRIMARY KEY,
	kind       INTEGER NOT NULL,
	name       TEXT NOT NULL,
	fold       TEXT UNIQUE,
	topic      TEXT NOT NULL,
	owner      INTEGER REFERENCES users(id),
	maker      INTEGER REFERENCES users(id),
	peer1      INTEGER REFERENCES users(id),
	peer2      INTEGER REFERENCES users(id),
	first      INTEGER NOT NULL,
	last       INTEGER NOT NULL,
	epoch      INTEGER NOT NULL,
	stale      INTEGER NOT NULL,
	keep_count INTEGER,
	keep_age   INTEGER,
	UNIQUE (peer1, peer2)
) STRICT;

CREATE TABLE members (
	room  INTEGER NOT NULL REFERENCES rooms(id),
	user  INTEGER NOT NULL REFERENCES users(id),
	since INTEGER NOT NULL,
	read  INTEGER NOT NULL,
	PRIMARY KEY (room, user)
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
	key    INTEGER PRIMARY KEY,
	sender INTEGER NOT NULL REFERENCES users(id),
	id     BLOB NOT NULL,
	kind   INTEGER NOT NULL,
	target INTEGER REFERENCES users(id),
	time   INTEGER NOT NULL,
	sent   INTEGER NOT NULL,
	place  INTEGER,
	body   BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_by_id ON messages(sender, id);

CREATE TABLE places (
	place   INTEGER PRIMARY KEY,
	message INTEGER NOT NULL,
	time    INTEGER NOT NULL
) STRICT;

CREATE VIRTUAL TABLE words USING fts5(
	body, scope, content='', columnsize=0, tokenize='unicode61 remove_diacritics 2'
);

CREATE TABLE spent (
	sender  INTEGER NOT NULL REFERENCES users(id),
	id      BLOB NOT NULL,
	message INTEGER NOT NULL,
	kind    INTEGER NOT NULL,
	target  INTEGER,
	time    INTEGER NOT NULL,
	digest  BLOB NOT NULL,
	until   INTEGER NOT NULL,
	PRIMARY KEY (sender, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX spent_until ON spent(until);

CREATE TABLE devices (
	user    INTEGER NOT NULL REFERENCES users(id),
	version INTEGER NOT NULL,
	list    BLOB NOT NULL,
	UNIQUE (user, version)
) STRICT;

CREATE TABLE epochs (
	room   INTEGER NOT NULL REFERENCES rooms(id),
	epoch  INTEGER NOT NULL,
	boxes  INTEGER NOT NULL,
	header BLOB NOT NULL,
	UNIQUE (room, epoch)
) STRICT;

CREATE TABLE boxes (
	room   INTEGER NOT NULL REFERENCES rooms(id),
	device BLOB NOT NULL,
	epoch  INTEGER NOT NULL,
	box    BLOB NOT NULL,
	PRIMARY KEY (room, device, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE mail (
	n      INTEGER PRIMARY KEY,
	user   INTEGER NOT NULL REFERENCES users(id),
	id     BLOB NOT NULL,
	sender BLOB NOT NULL,
	target BLOB NOT NULL,
	time   INTEGER NOT NULL,
	body   BLOB NOT NULL,
	UNIQUE (user, id)
) STRICT;
`}

// migrate brings the database to the schema that steps describe.
func migrate(c *conn, steps []string) error {
	version, _, err := c.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	mark, _, err := c.number("PRAGMA application_id")
	if err != nil {
		return err
	}
	switch {
	case version == 0:
		if err := refuseForeign(c, mark); err != nil {
			return err
		}
	case mark != applicationID:
		return errForeign
	case version > int64(len(steps)):
		return fmt.Errorf("%w: its schema is %d, this one knows %d", ErrNewer, version, len(steps))
	}
	for ; version < int64(len(steps)); version++ {
		if err := step(c, steps[version], version+1); err != nil {
			return fmt.Errorf("schema %d: %w", version+1, err)
		}
	}
	return nil
}

var errForeign = errors.New("chat store: the file is another program's database")

// refuseForeign makes sure that a database without a version is empty.
func refuseForeign(c *conn, mark int64) error {
	tables, _, err := c.number("SELECT count(*) FROM sqlite_schema")
	if err == nil && (tables > 0 || mark != 0) {
		err = errForeign
	}
	return err
}

// step runs one migration and records it, or does neither.
func step(c *conn, statements string, version int64) error {
	err := c.script(fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT",
		statements, applicationID, version))
	if err != nil {
		_ = c.script("ROLLBACK") // there is none if BEGIN failed
	}
	return err
}
