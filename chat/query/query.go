// Package query reads the search language of the chat service: words and quoted
// phrases, and the filters from:, in:, before: and after:.
//
//	from:bob in:kitchen after:2026-01-31 coffee "out of order"
//
// Everything that is not a filter is looked for, "http://example.org" and
// "re:plans" included.
package query

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Query is what to look for. A filter that was not given is zero.
type Query struct {
	From   string    // said by this user, without "@"
	In     string    // name of the room, without "#"; with "@": the direct room with that user
	After  time.Time // said at this time or later
	Before time.Time // said before this time
	Terms  []string  // all of them must occur; one with spaces is a phrase
}

// ErrSyntax is the error of a text that Parse does not understand. Its text is
// for the person who typed it.
var ErrSyntax = errors.New("search")

// dateForm is how dates are written.
const dateForm = "2006-01-02"

// Parse reads text. Words are separated by white space; quotation marks hold a
// phrase or the value of a filter together, and one that is not closed reaches
// to the end. Dates are days in the location of what now returns, YYYY-MM-DD,
// "today" or "yesterday": after: includes the day, before: does not. A filter
// may occur once. The error is an ErrSyntax.
func Parse(text string, now func() time.Time) (Query, error) {
	var q Query
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return q, fmt.Errorf("%w: not a text", ErrSyntax)
	}
	for rest := text; ; {
		w, after, ok := next(rest)
		if !ok {
			return q, nil
		}
		if err := q.add(w, now); err != nil {
			return Query{}, err
		}
		rest = after
	}
}

// word is one piece of a query.
type word struct {
	filter string // lower case, without the colon; empty: a term
	value  string
}

// next cuts the first word off text. ok is false at the end.
func next(text string) (w word, rest string, ok bool) {
	text = strings.TrimLeftFunc(text, unicode.IsSpace)
	if text == "" {
		return w, "", false
	}
	if name, value, found := strings.Cut(text, ":"); found && isFilter(name) {
		w.filter, text = strings.ToLower(name), value
		if r, _ := utf8.DecodeRuneInString(text); text == "" || unicode.IsSpace(r) {
			return w, text, true
		}
	}
	if quoted, isQuoted := strings.CutPrefix(text, `"`); isQuoted {
		w.value, rest, _ = strings.Cut(quoted, `"`)
		w.value = strings.Join(strings.Fields(w.value), " ")
		return w, rest, true
	}
	end := strings.IndexFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == '"' })
	if end < 0 {
		end = len(text)
	}
	w.value = text[:end]
	return w, text[end:], true
}

func isFilter(name string) bool {
	switch strings.ToLower(name) {
	case "from", "in", "after", "before":
		return true
	}
	return false
}

// add puts a word where it belongs.
func (q *Query) add(w word, now func() time.Time) error {
	if w.filter != "" && w.value == "" {
		return fmt.Errorf("%w: %s: needs a value right after the colon", ErrSyntax, w.filter)
	}
	switch w.filter {
	case "from":
		return setName(&q.From, w, "@", chatproto.MaxUser)
	case "in":
		return setName(&q.In, w, "#", chatproto.MaxUser+1)
	case "after":
		return setDay(&q.After, w, now)
	case "before":
		return setDay(&q.Before, w, now)
	}
	return q.addTerm(w.value)
}

// setName sets a filter that is a name.
func setName(dst *string, w word, sign string, limit int) error {
	name := strings.TrimPrefix(w.value, sign)
	switch {
	case *dst != "":
		return fmt.Errorf("%w: %s: occurs twice", ErrSyntax, w.filter)
	case name == "" || name == "@":
		return fmt.Errorf("%w: %s:%s names nobody", ErrSyntax, w.filter, w.value)
	case len(name) > limit:
		return fmt.Errorf("%w: %s: the name is too long", ErrSyntax, w.filter)
	}
	*dst = name
	return nil
}

// setDay sets a filter that is a date.
func setDay(dst *time.Time, w word, now func() time.Time) error {
	if !dst.IsZero() {
		return fmt.Errorf("%w: %s: occurs twice", ErrSyntax, w.filter)
	}
	t := now()
	y, m, d := t.Date()
	switch strings.ToLower(w.value) {
	case "today":
	case "yesterday":
		d--
	default:
		day, err := time.Parse(dateForm, w.value)
		if err != nil || day.Year() < 1 {
			return fmt.Errorf("%w: %s:%s is not a date like 2026-01-31, today or yesterday", ErrSyntax, w.filter, w.value)
		}
		y, m, d = day.Date()
	}
	*dst = time.Date(y, m, d, 0, 0, 0, 0, t.Location())
	return nil
}

// addTerm adds a word or phrase; one without anything in it counts for nothing.
func (q *Query) addTerm(term string) error {
	switch {
	case term == "":
		return nil
	case len(term) > chatproto.MaxTerm:
		return fmt.Errorf("%w: a word or phrase has more than %d bytes", ErrSyntax, chatproto.MaxTerm)
	case len(q.Terms) == chatproto.MaxTerms:
		return fmt.Errorf("%w: more than %d words and phrases", ErrSyntax, chatproto.MaxTerms)
	}
	q.Terms = append(q.Terms, term)
	return nil
}
