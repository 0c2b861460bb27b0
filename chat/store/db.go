package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// conn is a connection to the database with the statements that were prepared
// on it. It is used by one goroutine at a time. database/sql is left out: it
// would guard every statement with locks that a single user does not need.
type conn struct {
	raw   driver.Conn
	stmts map[string]driver.Stmt
	args  []driver.NamedValue
	row   []driver.Value
}

// dial opens a connection. Write-ahead logging with full synchronisation: what
// is committed is on the disk.
func dial(path string, readOnly bool) (*conn, error) {
	q := url.Values{"_busy_timeout": {"10000"}, "_foreign_keys": {"on"}, "_pragma": {
		"journal_mode(wal)", "synchronous(full)", "trusted_schema(off)", "cell_size_check(on)",
		"cache_size(-16384)", "wal_autocheckpoint(4000)", "journal_size_limit(67108864)",
	}}
	if readOnly {
		q = url.Values{"_busy_timeout": {"10000"}, "_query_only": {"on"}, "_pragma": {
			"trusted_schema(off)", "cell_size_check(on)", "cache_size(-8192)",
		}}
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	raw, err := new(sqlite.Driver).Open(dsn.String())
	if err != nil {
		return nil, fault(err)
	}
	return &conn{raw: raw, stmts: make(map[string]driver.Stmt)}, nil
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		s.Close()
	}
	return c.raw.Close()
}

// prepare returns the statement for text, which is a constant of the program.
func (c *conn) prepare(text string) (driver.Stmt, error) {
	if s := c.stmts[text]; s != nil {
		return s, nil
	}
	s, err := c.raw.Prepare(text)
	if err != nil {
		return nil, fault(err)
	}
	c.stmts[text] = s
	return s, nil
}

// bind makes driver values of args. uint64 stand for numbers below 1<<63.
func (c *conn) bind(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		switch v := a.(type) {
		case int:
			a = int64(v)
		case uint8:
			a = int64(v)
		case uint64:
			a = int64(v)
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args
}

// exec runs a statement that returns no rows.
func (c *conn) exec(text string, args ...any) error {
	_, err := c.change(text, args...)
	return err
}

// change is exec, and returns how many rows were changed.
func (c *conn) change(text string, args ...any) (int64, error) {
	s, err := c.prepare(text)
	if err != nil {
		return 0, err
	}
	res, err := s.(driver.StmtExecContext).ExecContext(context.Background(), c.bind(args))
	if err != nil {
		return 0, fault(err)
	}
	return res.RowsAffected()
}

// script runs statements that are not kept.
func (c *conn) script(text string) error {
	_, err := c.raw.(driver.ExecerContext).ExecContext(context.Background(), text, nil)
	return fault(err)
}

// errEnough ends a query early without an error.
var errEnough = errors.New("enough rows")

// query calls each with every row. The row is only valid during the call, its
// byte slices stay valid. each ends the query by returning an error; errEnough
// is none. A context that ends interrupts the query.
func (c *conn) query(ctx context.Context, text string, each func(row []driver.Value) error, args ...any) (err error) {
	s, err := c.prepare(text)
	if err != nil {
		return err
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(ctx, c.bind(args))
	if err != nil {
		return faultOf(ctx, err)
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = fault(e)
		}
	}()
	if n := len(rows.Columns()); cap(c.row) < n {
		c.row = make([]driver.Value, n)
	} else {
		c.row = c.row[:n]
	}
	for {
		if err := rows.Next(c.row); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return faultOf(ctx, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := each(c.row); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// number returns the single number that a query selects; found is false if
// there is no row or the number is NULL.
func (c *conn) number(text string, args ...any) (n int64, found bool, err error) {
	err = c.query(context.Background(), text, func(row []driver.Value) error {
		n, found = row[0].(int64)
		return errEnough
	}, args...)
	return n, found, err
}

// fault dresses an error of the database. A full disk is ENOSPC to whoever
// asks.
func fault(err error) error {
	if err == nil {
		return nil
	}
	var e *sqlite.Error
	if errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL {
		return fmt.Errorf("chat store: %w: %w", syscall.ENOSPC, err)
	}
	return fmt.Errorf("chat store: %w", err)
}

// faultOf is fault, but tells that the context has ended as the context does.
func faultOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fault(err)
}

// Values of a row, which have the types that the schema gives them.

func num(v driver.Value) uint64 { n, _ := v.(int64); return uint64(n) }

func text(v driver.Value) string { s, _ := v.(string); return s }

func blob(v driver.Value) []byte { b, _ := v.([]byte); return b }
