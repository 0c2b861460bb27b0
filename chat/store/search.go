package store

import (
	"context"
	"database/sql/driver"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Search looks for texts in the rooms that user is in now, newest first.
// Upper and lower case and diacritics make no difference. A term without a
// letter or a digit is passed over. A cursor without any messages means that
// there may be more, further back.
func (s *Store) Search(ctx context.Context, user string, req *chatproto.SearchReq) (res chatproto.SearchRes, err error) {
	match, names, newest, err := s.matching(user, req)
	if err != nil || match == "" {
		return res, err
	}
	below := newest + 1
	if req.Cursor != 0 {
		below = min(below, int64(min(req.Cursor, 1<<62)))
	}
	p := newPage(req.Limit)
	err = s.read(ctx, func(db *conn) error {
		from, to, err := timeRange(db, req, below)
		if err == nil {
			res.Cursor, err = s.walk(ctx, db, p, match, names, from, to)
		}
		return err
	})
	if err != nil {
		return chatproto.SearchRes{}, err
	}
	res.Messages = p.messages
	return res, nil
}

// searchTime bounds the work of one search: after it no further era is walked.
// Words that are common by themselves but never meet would otherwise be compared
// over the whole log.
const searchTime = 100 * time.Millisecond

// walk fills p with what matches in the places from from to to, newest first,
// and returns the cursor to go on with. It goes era by era: only where a term
// has no further entries does the index give up looking for ones that meet, and
// an era is such a term.
func (s *Store) walk(ctx context.Context, db *conn, p *page, match string, names []string, from, to int64) (cursor uint64, err error) {
	for begun := time.Now(); ; {
		newest, found, err := db.number("SELECT max(place) FROM places WHERE place < ?", to)
		if err != nil || !found || newest < from {
			return 0, err
		}
		era, last := newest>>eraBits, int64(0)
		low := max(from, era<<eraBits)
		err = db.query(ctx, searchWords, func(row []driver.Value) error {
			if !p.add(messageOf(names, row)) {
				cursor = uint64(last)
				return errEnough
			}
			last = int64(num(row[8]))
			return nil
		}, fmt.Sprintf("scope : e%d AND %s", era, match), low, to, p.limit+1-len(p.messages))
		if err != nil || cursor != 0 {
			return cursor, err
		}
		if to = low; time.Since(begun) >= s.searchTime && from < to {
			return uint64(to), nil
		}
	}
}

const searchWords = "SELECT " + messageColumns + `, p.place FROM words w
	CROSS JOIN places p ON p.place = w.rowid
	CROSS JOIN messages m ON m.key = p.message
	WHERE words MATCH ? AND w.rowid >= ? AND w.rowid < ? ORDER BY w.rowid DESC LIMIT ?`

// matching makes the expression for the index. It is empty if nothing can
// match.
func (s *Store) matching(user string, req *chatproto.SearchReq) (match string, names []string, newest int64, err error) {
	if len(req.Terms) > chatproto.MaxTerms {
		return "", nil, 0, chatproto.ErrText
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	names, newest = s.view.names, s.view.place
	rooms := []chatproto.RoomID{req.Room}
	if req.Room == 0 {
		rooms = slices.Sorted(maps.Keys(s.seen.of[user]))
	} else if r := s.seen.rooms[req.Room]; r == nil || !r.has(user) {
		return "", nil, 0, chatproto.ErrNoRoom
	}
	var in []string
	for _, id := range rooms {
		if s.seen.rooms[id].kind != chatproto.RoomSealed {
			in = append(in, fmt.Sprintf("r%d", id))
		}
	}
	if len(in) == 0 {
		return "", nil, 0, nil
	}
	parts := []string{"scope : (" + strings.Join(in, " OR ") + ")"}
	if req.From != "" {
		i := slices.Index(names, req.From)
		if i < 0 {
			return "", nil, 0, nil
		}
		parts = append(parts, fmt.Sprintf("scope : u%d", i+1))
	}
	for _, term := range req.Terms {
		if err := chatproto.CheckText(term, chatproto.MaxTerm); err != nil {
			return "", nil, 0, err
		}
		if strings.ContainsFunc(term, inWord) {
			parts = append(parts, "body : "+quote(term))
		}
	}
	return strings.Join(parts, " AND "), names, newest, nil
}

// inWord reports whether the index takes r for a part of a word.
func inWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.Is(unicode.Co, r)
}

// quote makes a string of the index's query language, in which nothing but the
// quotation mark means anything.
func quote(term string) string { return `"` + strings.ReplaceAll(term, `"`, `""`) + `"` }

// timeRange returns the places, from included and to excluded, of what was said
// between the times of req, below a place. Places grow with time.
func timeRange(db *conn, req *chatproto.SearchReq, below int64) (from, to int64, err error) {
	from, to = 1, below
	if req.After > 0 {
		if from, err = firstPlace(db, req.After, below); err != nil {
			return 0, 0, err
		}
	}
	if req.Before > 0 {
		to, err = firstPlace(db, req.Before, below)
	}
	return from, to, err
}

// firstPlace returns the first place whose entry is not older than time, or
// below.
func firstPlace(db *conn, time, below int64) (int64, error) {
	low, high := int64(1), below
	for low < high {
		mid := low + (high-low)/2
		place, young := below, true
		err := db.query(context.Background(), "SELECT place, time FROM places WHERE place >= ? ORDER BY place LIMIT 1", func(row []driver.Value) error {
			place, young = int64(num(row[0])), int64(num(row[1])) >= time
			return errEnough
		}, mid)
		switch {
		case err != nil:
			return 0, err
		case young:
			high = mid
		default:
			low = place + 1
		}
	}
	return low, nil
}
