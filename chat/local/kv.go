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

// Update changes several values at once; a nil value deletes the key. While f
// runs, no other program changes the state, so what Get returns in it stays
// true; it does not see what f has put. It is on the disk when Update returns.
// f must not call the State's other changing methods.
func (s *State) Update(f func(put func(key string, value []byte)) error) error {
	return s.change(s.db, func(tx *sql.Tx) error {
		changes := make(map[string][]byte)
		if err := f(func(key string, value []byte) { changes[key] = slices.Clone(value) }); err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(changes)) {
			var err error
			if value := changes[key]; value == nil {
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
