package query

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

var zone = time.FixedZone("test", 2*3600)

// noon is half past midnight of a leap day's morrow, where UTC still has the day
// before.
func now() time.Time { return time.Date(2028, 3, 1, 0, 30, 0, 0, zone) }

func day(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, zone) }

func TestParse(t *testing.T) {
	for text, want := range map[string]Query{
		"":                        {},
		" \t\n ":                  {},
		"word":                    {Terms: []string{"word"}},
		"two  words":              {Terms: []string{"two", "words"}},
		`"a phrase" and`:          {Terms: []string{"a phrase", "and"}},
		`"  much   space  "`:      {Terms: []string{"much space"}},
		`"not closed at all`:      {Terms: []string{"not closed at all"}},
		`one"two three"four`:      {Terms: []string{"one", "two three", "four"}},
		`""`:                      {},
		`"`:                       {},
		"from:bob":                {From: "bob"},
		"from:@bob x":             {From: "bob", Terms: []string{"x"}},
		"FROM:Bob":                {From: "Bob"},
		"in:kitchen":              {In: "kitchen"},
		"in:#kitchen":             {In: "kitchen"},
		"in:@bob":                 {In: "@bob"},
		`from:"bob b" x`:          {From: "bob b", Terms: []string{"x"}},
		"foo:bar":                 {Terms: []string{"foo:bar"}},
		"http://example.org":      {Terms: []string{"http://example.org"}},
		"x from :y":               {Terms: []string{"x", "from", ":y"}},
		`"from:bob"`:              {Terms: []string{"from:bob"}},
		"after:2026-01-31":        {After: day(2026, 1, 31)},
		"before:2028-02-29 x":     {Before: day(2028, 2, 29), Terms: []string{"x"}},
		"after:today":             {After: day(2028, 3, 1)},
		"before:Yesterday":        {Before: day(2028, 2, 29)},
		"übung from:jörg":         {Terms: []string{"übung"}, From: "jörg"},
		"a OR b NOT c* (d) ^e":    {Terms: []string{"a", "OR", "b", "NOT", "c*", "(d)", "^e"}},
		"in:a from:b after:today": {In: "a", From: "b", After: day(2028, 3, 1)},
	} {
		got, err := Parse(text, now)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, part := range map[string]string{
		"from:":                       "needs a value",
		"from: bob":                   "needs a value",
		"in:":                         "needs a value",
		`in:""`:                       "needs a value",
		"x before:":                   "needs a value",
		"from:@":                      "names nobody",
		"in:#":                        "names nobody",
		"in:@":                        "names nobody",
		"from:a from:b":               "twice",
		"in:a in:b":                   "twice",
		"after:today after:yesterday": "twice",
		"after:tomorrow":              "not a date",
		"after:2026-02-29":            "not a date",
		"before:2026-1-1":             "not a date",
		"before:01.02.2026":           "not a date",
		"before:0000-01-01":           "not a date",
		"a\x00b":                      "not a text",
		"a\xffb":                      "not a text",
		"from:" + strings.Repeat("x", chatproto.MaxUser+1): "too long",
		strings.Repeat("x", chatproto.MaxTerm+1):           "more than",
		strings.Repeat("x ", chatproto.MaxTerms+1):         "more than",
	} {
		q, err := Parse(text, now)
		if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), part) || !reflect.DeepEqual(q, Query{}) {
			t.Errorf("%q: %+v, %v; want an error with %q", text, q, err, part)
		}
	}
}

// FuzzParse: whatever parses is within the protocol's limits and holds nothing
// that was not typed.
func FuzzParse(f *testing.F) {
	seeds := []string{`from:bob in:room before:2026-01-31 after:2026-01-01 word "a phrase"`, `"`, "from:", `x"y"z`, "in:@a", "a:b:c", "\xff", "after:today"}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Parse(text, now)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if len(q.Terms) > chatproto.MaxTerms || len(q.From) > chatproto.MaxUser || len(q.In) > chatproto.MaxUser+1 {
			t.Fatalf("%q: %+v is beyond the limits", text, q)
		}
		squeezed := strings.Join(strings.Fields(text), " ")
		for _, term := range append(q.Terms, q.From, q.In) {
			if len(term) > chatproto.MaxTerm || !utf8.ValidString(term) || !strings.Contains(squeezed, strings.TrimSpace(term)) {
				t.Fatalf("%q: %q", text, term)
			}
		}
		for _, term := range q.Terms {
			if term == "" {
				t.Fatalf("%q: an empty term", text)
			}
		}
	})
}
