package local

import (
	"database/sql"
	"errors"
	"maps"
	"slices"
)

// Get returns the value of a key, nil if it has none.
func (s *State) Get(key string) ([]byte, error) {
	var value []byte
	err := s.db.QueryRow("SELECT value FROM kv WHERE key = ?", key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err == nil && value == nil {
		value = []byte{} // there, and empty
	}
	return value, err
}

// List returns the keys that begin with prefix, and their values.
func (s *State) List(prefix string) (map[string][]byte, error) {
	rows, err := s.db.Query("SELECT key, value FROM kv WHERE substr(key, 1, length(?1)) = ?1", prefix)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	found := make(map[string][]byte)
	for rows.Next() {
		var key string
		var value []byte
		if err := rows.Scan(&key, &value); err != nil {
			return nil, err
		}
		found[key] = value
	}
	return found, rows.Err()
}

// Tx is an update of several values.
type Tx struct {
	s       *State
	changes map[string][]byte
}

// Get returns the value of a key as it was before the update.
func (t *Tx) Get(key string) ([]byte, error) { return t.s.Get(key) }

// Put changes the value of a key; nil deletes the key.
func (t *Tx) Put(key string, value []byte) { t.changes[key] = slices.Clone(value) }

// Update changes several values at once: what f puts is on the disk when Update
// returns, all of it, or nothing if there is an error. While f runs, no other
// program changes the state, so what was read in it stays true. f must not call
// the State's other changing methods.
func (s *State) Update(f func(tx *Tx) error) error {
	return s.change(s.db, func(tx *sql.Tx) error {
		t := &Tx{s, make(map[string][]byte)}
		if err := f(t); err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(t.changes)) {
			var err error
			if value := t.changes[key]; value == nil {
				_, err = tx.Exec("DELETE FROM kv WHERE key = ?", key)
			} else {
				_, err = tx.Exec("INSERT INTO kv (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", key, value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
