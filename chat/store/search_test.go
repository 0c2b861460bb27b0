package store

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// found returns the texts that a search finds, following its cursor.
func (c *script) found(user string, req chatproto.SearchReq) (texts []string) {
	c.t.Helper()
	for range 10_000 {
		res, err := c.s.Search(background, user, &req)
		c.ok(err)
		for _, m := range res.Messages {
			texts = append(texts, string(m.Body))
		}
		if req.Cursor = res.Cursor; req.Cursor == 0 {
			return texts
		}
	}
	c.t.Fatal("the cursor never ends")
	return nil
}

func TestSearch(t *testing.T) {
	clock := newClock()
	c := script{t: t, s: open(t, Config{Now: clock.now})}
	tick := func() int64 { clock.add(time.Second); return clock.now().UnixMicro() }
	lobby, den := c.join("alice", LobbyName), c.create("alice", "den", chatproto.RoomPrivate)
	c.join("bob", LobbyName)
	c.say("alice", lobby, "The Coffee machine is out of order")
	c.say("bob", lobby, "order more coffee, out it goes")
	t2 := tick()
	c.say("alice", den, "CAFÉ crème")
	c.say("alice", lobby, "cafe au lait")
	t3 := tick()
	res, err := c.s.Say(background, "bob", lobby, &chatproto.SayReq{ID: c.next(), Kind: chatproto.KindAction, Body: []byte("drinks Ünïcode tea")})
	c.ok(err)
	for name, x := range map[string]struct {
		req  chatproto.SearchReq
		want string
	}{
		"word, newest first":   {chatproto.SearchReq{Terms: []string{"coffee"}}, "order more coffee, out it goes|The Coffee machine is out of order"},
		"phrase":               {chatproto.SearchReq{Terms: []string{"out of order"}}, "The Coffee machine is out of order"},
		"all terms":            {chatproto.SearchReq{Terms: []string{"machine", "order"}}, "The Coffee machine is out of order"},
		"diacritics":           {chatproto.SearchReq{Terms: []string{"cafe"}}, "cafe au lait|CAFÉ crème"},
		"diacritics in query":  {chatproto.SearchReq{Terms: []string{"CRÈME"}}, "CAFÉ crème"},
		"room":                 {chatproto.SearchReq{Terms: []string{"cafe"}, Room: den}, "CAFÉ crème"},
		"from":                 {chatproto.SearchReq{From: "bob"}, "drinks Ünïcode tea|order more coffee, out it goes"},
		"from and word":        {chatproto.SearchReq{From: "bob", Terms: []string{"coffee"}}, "order more coffee, out it goes"},
		"from a stranger":      {chatproto.SearchReq{From: "eve"}, ""},
		"after":                {chatproto.SearchReq{After: t3}, "drinks Ünïcode tea"},
		"before":               {chatproto.SearchReq{Before: t2}, "order more coffee, out it goes|The Coffee machine is out of order"},
		"between":              {chatproto.SearchReq{After: t2, Before: t3}, "cafe au lait|CAFÉ crème"},
		"never":                {chatproto.SearchReq{After: t3, Before: t2}, ""},
		"in the future":        {chatproto.SearchReq{After: res.Time + 1}, ""},
		"nothing but signs":    {chatproto.SearchReq{Terms: []string{"!?", "tea"}}, "drinks Ünïcode tea"},
		"part of a word":       {chatproto.SearchReq{Terms: []string{"coff"}}, ""},
		"absent":               {chatproto.SearchReq{Terms: []string{"coffee", "xyzzy"}}, ""},
		"negative time":        {chatproto.SearchReq{After: -5, Before: -1, Room: den}, "CAFÉ crème"},
		"the scope is no text": {chatproto.SearchReq{Terms: []string{fmt.Sprintf("r%d", lobby)}}, ""},
	} {
		if got := strings.Join(c.found("alice", x.req), "|"); got != x.want {
			t.Errorf("%s: %q; want %q", name, got, x.want)
		}
	}
	if got := c.found("bob", chatproto.SearchReq{Terms: []string{"cafe"}}); len(got) != 1 {
		t.Errorf("bob finds %q", got)
	}
	for _, bad := range [][]string{{""}, {"a\x00"}, {"\xff"}, {strings.Repeat("x", chatproto.MaxTerm+1)}, make([]string, chatproto.MaxTerms+1)} {
		_, err := c.s.Search(background, "alice", &chatproto.SearchReq{Terms: bad})
		c.want(chatproto.ErrText, err)
	}
}

// The index's own query language never gets through: each of these terms would
// mean something there, and here is only a text.
func TestSearchInjection(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	lobby, den := c.join("alice", LobbyName), c.create("bob", "den", chatproto.RoomPrivate)
	c.say("alice", lobby, "plain words here")
	c.say("bob", den, "secret words here")
	for _, term := range []string{
		`secret`, `"`, `""`, `"""`, `x" OR "secret`, `x") OR (body : secret`, `secret*`, `sec*`, `body:secret`, `body : secret`,
		`scope : r2`, fmt.Sprintf(`x" OR scope : "r%d`, den), `- scope : r1`, `{body scope} : secret`, `NEAR(secret words)`, `^secret`,
		`plain NOT x`, `NOT x`, `plain OR secret`, `plain + words`, `'; DROP TABLE messages; --`, `\`, `(`, `)`, `:`, "words\nOR secret",
	} {
		for _, terms := range [][]string{{term}, {"words", term}, {term, `" OR "secret`}} {
			for _, text := range c.found("alice", chatproto.SearchReq{Terms: terms}) {
				if text != "plain words here" {
					t.Errorf("%q finds %q", terms, text)
				}
			}
		}
	}
	for _, term := range []string{`plain OR secret`, `pla*`, `plain NOT x`, `^plain`, `body : plain`, `NEAR(plain words)`} {
		want := 0
		if term == `pla*` || term == `^plain` { // the sign counts for nothing, the word for itself
			want = len(c.found("alice", chatproto.SearchReq{Terms: []string{strings.Trim(term, "^*")}}))
		}
		if got := c.found("alice", chatproto.SearchReq{Terms: []string{term}}); len(got) != want {
			t.Errorf("%q finds %q", term, got)
		}
	}
}

// Pages and eras, some of which have nothing in them any more, give together
// what one walk gives.
func TestSearchPages(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	lobby, other := c.join("alice", LobbyName), c.create("alice", "other", chatproto.RoomPublic)
	var want, wantOther []string
	for i := range 60 {
		if i%20 == 10 { // the places between belong to what is no longer kept
			c.ok(c.s.do(background, 0, func(b *batch) error { b.s.place += 3<<eraBits - 5; return nil }))
		}
		text := fmt.Sprintf("number %d %s", i, []string{"even", "odd"}[i%2])
		if i%3 == 0 {
			c.say("alice", other, text)
			wantOther = append(wantOther, text)
		} else {
			c.say("alice", lobby, text)
		}
		want = append(want, text)
	}
	slices.Reverse(want)
	slices.Reverse(wantOther)
	for _, c.s.searchTime = range []time.Duration{0, time.Hour} {
		for _, limit := range []uint32{7, 20, 0} {
			if got := c.found("alice", chatproto.SearchReq{Terms: []string{"number"}, Limit: limit}); !slices.Equal(got, want) {
				t.Errorf("%v, limit %d: %q", c.s.searchTime, limit, got)
			}
			if got := c.found("alice", chatproto.SearchReq{Room: other, Limit: limit}); !slices.Equal(got, wantOther) {
				t.Errorf("%v, limit %d: %q", c.s.searchTime, limit, got)
			}
			if got := c.found("alice", chatproto.SearchReq{Terms: []string{"odd", "even"}, Limit: limit}); len(got) != 0 {
				t.Errorf("%v, limit %d: %q", c.s.searchTime, limit, got)
			}
		}
	}
	c.s.searchTime = 0
	res, err := c.s.Search(background, "alice", &chatproto.SearchReq{})
	if c.ok(err); len(res.Messages) == 60 || res.Cursor == 0 {
		t.Errorf("%d messages without any time", len(res.Messages))
	}
	c.s.searchTime = time.Hour
	if got := c.found("alice", chatproto.SearchReq{Cursor: 1 << 63}); len(got) != 60 {
		t.Errorf("a cursor from nowhere finds %d", len(got))
	}
}

// A page ends before its bodies are too large together.
func TestPageSize(t *testing.T) {
	c := script{t: t, s: open(t, Config{})}
	lobby := c.join("alice", LobbyName)
	big := strings.Repeat("x", chatproto.MaxText-8) + " needle"
	for range 40 {
		c.say("alice", lobby, big)
	}
	whole := chatproto.MaxPageSize / len(big)
	res, err := c.s.History(background, "alice", lobby, &chatproto.HistoryReq{})
	if c.ok(err); len(res.Messages) != whole || res.Messages[whole-1].Seq != 41 {
		t.Errorf("%d messages in a page; want %d", len(res.Messages), whole)
	}
	found, err := c.s.Search(background, "alice", &chatproto.SearchReq{Terms: []string{"needle"}})
	if c.ok(err); len(found.Messages) != whole || found.Cursor == 0 {
		t.Errorf("%d messages found; want %d", len(found.Messages), whole)
	}
	if got := c.found("alice", chatproto.SearchReq{Terms: []string{"needle"}}); len(got) != 40 {
		t.Errorf("%d messages found in all", len(got))
	}
}

func TestHistory(t *testing.T) {
	c := script{t: t, s: open(t, Config{Path: filepath.Join(t.TempDir(), "with ?#% signs")})}
	lobby := c.join("alice", LobbyName)
	for i := range 20 {
		c.say("alice", lobby, fmt.Sprint(i))
	}
	c.say("alice", c.create("alice", "next", chatproto.RoomPublic), "elsewhere")
	for req, want := range map[chatproto.HistoryReq]string{
		{Limit: 3}:                       "19 20 21",
		{Before: 5, Limit: 3}:            "2 3 4",
		{Before: 3, Limit: 9}:            "1 2",
		{Before: 1}:                      "",
		{After: 1, Limit: 2}:             "2 3",
		{After: 19}:                      "20 21",
		{After: 21}:                      "",
		{After: 1 << 63}:                 "",
		{Before: 1 << 63, Limit: 1}:      "21",
		{Before: 1<<64 - 1, Limit: 1}:    "21",
		{After: 1<<40 - 1}:               "",
		{After: 18, Before: 3, Limit: 2}: "19 20",
	} {
		res, err := c.s.History(background, "alice", lobby, &req)
		c.ok(err)
		var seqs []string
		for _, m := range res.Messages {
			seqs = append(seqs, fmt.Sprint(m.Seq))
		}
		if got := strings.Join(seqs, " "); got != want || res.First != 1 || res.Last != 21 {
			t.Errorf("%+v: %q of %d to %d; want %q", req, got, res.First, res.Last, want)
		}
	}
}
