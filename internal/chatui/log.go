package chatui

import (
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// maxKept is how many entries of a room are kept once the room is read at its
// end; older ones are loaded again when somebody scrolls back.
const maxKept = 1000

// kind tells what a line of the message pane is.
type kind uint8

const (
	kindMessage kind = iota // an entry of the room's log
	kindNote                // said by this program
	kindWarning             // said by this program, about safety
	kindError               // said by this program: something failed
)

// entry is what the message pane shows between two others. Notes stand where
// they were made, after the message that was the last then.
type entry struct {
	kind kind
	msg  chat.Message // kindMessage
	text string       // the others; may have lines
	at   time.Time

	seq uint64 // of msg, or of the message before a note
	sub int    // 0: a message; notes after it count up

	width int // of lines
	lines []string
}

// compare orders entries.
func (e *entry) compare(o *entry) int {
	switch {
	case e.seq < o.seq, e.seq == o.seq && e.sub < o.sub:
		return -1
	case e.seq == o.seq && e.sub == o.sub:
		return 0
	}
	return 1
}

// stretch is a part of a room's log without a gap, with notes in between.
type stretch struct {
	entries []*entry
	atStart bool // nothing stands before it in the room
	loading bool // the page before it, or after it, is on its way
	failed  bool // the last page did not come; asked for again when somebody scrolls or says something
}

// add puts messages where they belong. Those that are there already stay.
func (s *stretch) add(messages ...chat.Message) {
	for i := range messages {
		m := &messages[i]
		e := &entry{kind: kindMessage, msg: *m, at: m.Time, seq: m.Seq}
		n := len(s.entries)
		if n == 0 || s.entries[n-1].compare(e) < 0 {
			s.entries = append(s.entries, e)
			continue
		}
		if at, found := slices.BinarySearchFunc(s.entries, e, (*entry).compare); !found {
			s.entries = slices.Insert(s.entries, at, e)
		}
	}
}

// note adds a line of this program at the end.
func (s *stretch) note(k kind, text string, at time.Time) {
	e := &entry{kind: k, text: text, at: at, sub: 1}
	if n := len(s.entries); n > 0 {
		e.seq, e.sub = s.entries[n-1].seq, s.entries[n-1].sub+1
	}
	s.entries = append(s.entries, e)
}

// first returns the sequence number of the first message; 0: there is none.
func (s *stretch) first() uint64 {
	for _, e := range s.entries {
		if e.kind == kindMessage {
			return e.seq
		}
	}
	return 0
}

// last returns the sequence number of the last message; 0: there is none.
func (s *stretch) last() uint64 {
	if n := len(s.entries); n > 0 {
		return s.entries[n-1].seq
	}
	return 0
}

// has reports whether one of the last messages has the id.
func (s *stretch) has(id chatproto.ID) bool {
	for _, e := range slices.Backward(s.entries[max(0, len(s.entries)-500):]) {
		if e.kind == kindMessage && e.msg.ID == id {
			return true
		}
	}
	return false
}

// trim drops the oldest entries above maxKept.
func (s *stretch) trim() {
	if extra := len(s.entries) - maxKept; extra > 0 {
		s.entries = slices.Clone(s.entries[extra:])
		s.atStart = false
	}
}

// roomView is a room as the interface shows it.
type roomView struct {
	me      string // the user
	info    chat.RoomInfo
	live    stretch  // up to the newest entry
	past    *stretch // not nil: shown instead of live
	opened  bool     // the first page of history was asked for
	pending []chat.Message
	members []string // known since the room was opened, kept up with the log

	scroll   int    // lines below the shown ones
	newAfter uint64 // a line is drawn after this entry: what follows is new; 0: none
	target   uint64 // the entry that a search has jumped to; 0: none

	marked  uint64 // up to where the server was told that it is read
	marking bool   // it is being told
	typing  map[string]time.Time
}

// shown returns the stretch that is on the screen.
func (r *roomView) shown() *stretch {
	if r.past != nil {
		return r.past
	}
	return &r.live
}

// joinUp shows live again, with what was loaded of the past, once the two have
// met.
func (r *roomView) joinUp() {
	if r.past == nil || r.past.last()+1 < r.live.first() {
		return
	}
	past := r.past
	r.past = nil
	for _, e := range past.entries {
		if e.kind == kindMessage {
			r.live.add(e.msg)
		}
	}
	r.live.atStart = past.atStart
}

// arrived takes a message of the feed. It reports whether it is a new entry.
func (r *roomView) arrived(m *chat.Message) bool {
	r.unpend(m.ID)
	delete(r.typing, m.From)
	if m.Seq == 0 || m.Seq <= r.live.last() {
		return false
	}
	r.live.add(*m)
	r.live.failed = false
	r.info.Last = max(r.info.Last, m.Seq)
	if m.Refused {
		return true
	}
	switch m.Kind {
	case chatproto.KindJoin, chatproto.KindCreate:
		r.member(m.From, true)
	case chatproto.KindLeave:
		r.member(m.From, false)
	case chatproto.KindInvite:
		r.member(m.Target, true)
	case chatproto.KindRemove:
		r.member(m.Target, false)
	case chatproto.KindTopic:
		r.info.Topic = m.Text
	}
	return true
}

func (r *roomView) member(user string, in bool) {
	at, found := slices.BinarySearch(r.members, user)
	switch {
	case in && !found:
		r.members = slices.Insert(r.members, at, user)
	case !in && found:
		r.members = slices.Delete(r.members, at, at+1)
	}
}

// pend shows a message of the outbox.
func (r *roomView) pend(m chat.Message) {
	if r.live.has(m.ID) || slices.ContainsFunc(r.pending, func(p chat.Message) bool { return p.ID == m.ID }) {
		return
	}
	r.pending = append(r.pending, m)
}

// unpend takes a message of the outbox off the screen.
func (r *roomView) unpend(id chatproto.ID) {
	r.pending = slices.DeleteFunc(r.pending, func(p chat.Message) bool { return p.ID == id })
}
