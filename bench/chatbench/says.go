package main

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the database that the daemon uses
)

// says measures durable messages per second, beside what the disk and the
// database allow in the same run.
func (s *site) says() error {
	senders := names("sender", s.o.senders)
	half := max(len(senders)/2, 1)
	s.step("limits")
	if err := s.limits(); err != nil {
		return err
	}
	if err := s.serve(senders); err != nil {
		return err
	}
	var all []*child
	for _, some := range [][]string{senders[:half], senders[half:]} {
		c, err := s.start(some)
		if err == nil {
			err = c.ask("attach", none{}, nil)
		}
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	if err := s.saysIn(all, "a room each", joinArgs{Room: "own", Each: true}); err != nil {
		return err
	}
	c, err := s.room("hall", names("sender", 1)) // one more session of the first, to make the room
	if err != nil {
		return err
	}
	if err := c[0].ask("close", none{}, nil); err != nil {
		return err
	}
	return s.saysIn(all, "one room", joinArgs{Room: "hall"})
}

func (s *site) saysIn(all []*child, where string, join joinArgs) error {
	s.step("senders, %s", where)
	if err := each(all, func(_ int, c *child) error { return c.ask("join", join, nil) }); err != nil {
		return err
	}
	results := make([]said, len(all))
	err := s.profile(s.part+"-"+join.Room, func() error {
		return each(all, func(i int, c *child) error {
			return c.ask("say", sayArgs{For: s.o.says, Size: textSize}, &results[i])
		})
	})
	if err != nil {
		return err
	}
	rate, sum := 0.0, delays{}
	for _, r := range results {
		rate += float64(r.N) / r.Seconds
		sum.add(r.Delays)
	}
	s.rep.add(s.part, where+", durable", rate, "messages/s")
	s.rep.delays(s.part, where+", acknowledged after", sum)
	return nil
}

// limits measures what a say cannot be faster than: fdatasync of a page, and
// transactions of one and of many small rows in the same database engine.
func (s *site) limits() error {
	dir := filepath.Join(s.dir, "limits")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	rate, err := syncRate(filepath.Join(dir, "file"), s.o.says)
	if err != nil {
		return err
	}
	s.rep.add(s.part, "limit: 4 KiB written and synced", rate, "1/s")
	for _, rows := range []int{1, s.o.senders} {
		rate, err := insertRate(filepath.Join(dir, "db"), rows, s.o.says)
		if err != nil {
			return err
		}
		name := "limit: SQLite, a row per transaction"
		if rows > 1 {
			name = "limit: SQLite, a row of each sender per transaction"
		}
		s.rep.add(s.part, name, rate, "messages/s")
	}
	return nil
}

// syncRate is how often per second a page can be appended and synced.
func syncRate(path string, d time.Duration) (float64, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page, n, start := make([]byte, 4096), 0, time.Now()
	for ; time.Since(start) < d; n++ {
		if _, err := f.WriteAt(page, int64(n%256)*4096); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// insertRate is how many rows per second can be committed, so many in a
// transaction.
func insertRate(path string, rows int, d time.Duration) (rate float64, err error) {
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("CREATE TABLE IF NOT EXISTS m (id INTEGER PRIMARY KEY, body BLOB)"); err != nil {
		return 0, err
	}
	n, start, body := 0, time.Now(), filler(textSize)
	for ; time.Since(start) < d; n += rows {
		if err := insert(db, rows, body); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

func insert(db *sql.DB, rows int, body []byte) error {
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	st, err := tx.Prepare("INSERT INTO m (body) VALUES (?)")
	if err != nil {
		return err
	}
	for range rows {
		if _, err := st.Exec(body); err != nil {
			return err
		}
	}
	return tx.Commit()
}
