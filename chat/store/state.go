package store

import (
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Keys of entries: room<<seqBits | seq.
const (
	seqBits = 40
	maxSeq  = 1<<seqBits - 1
	maxRoom = 1<<(63-seqBits) - 1
)

func keyOf(room chatproto.RoomID, seq uint64) int64 { return int64(uint64(room)<<seqBits | seq) }

func roomOf(key uint64) chatproto.RoomID { return chatproto.RoomID(key >> seqBits) }

func seqOf(key uint64) uint64 { return key & maxSeq }

// room is a room as it stands after some change. It does not change any more,
// the read marks of its members excepted: who changes a room makes a new one.
type room struct {
	id           chatproto.RoomID
	kind         uint8
	name, fold   string // fold is empty for rooms that nobody can find by name
	topic        string
	owner        string
	maker        string
	peer1, peer2 string // of a direct room, in order
	first, last  uint64
	epoch        uint64
	stale        uint64 // key epochs up to this one are not to be used any more
	keep         *Retention
	members      *members
}

// member is a user's place in a room, from joining to leaving.
type member struct {
	since uint64 // sequence number of the entry that recorded the joining

	// Guarded by Store.mu.
	read   uint64
	unread int64 // messages of others after read, at most MaxUnread; unknown if negative
}

const unknown = -1

// members is a set of members that does not change.
type members struct {
	by    map[string]*member
	names []string // sorted
}

func makeMembers(by map[string]*member) *members {
	return &members{by: by, names: slices.Sorted(maps.Keys(by))}
}

func (m *members) with(user string, as *member) *members {
	by := maps.Clone(m.by)
	by[user] = as
	return makeMembers(by)
}

func (m *members) without(user string) *members {
	by := maps.Clone(m.by)
	delete(by, user)
	return makeMembers(by)
}

// eldest returns the member of longest standing, or "".
func (m *members) eldest() string {
	eldest, since := "", uint64(math.MaxUint64)
	for _, name := range m.names {
		if s := m.by[name].since; s < since {
			eldest, since = name, s
		}
	}
	return eldest
}

func (r *room) clone() *room { c := *r; return &c }

func (r *room) has(user string) bool { return r.members.by[user] != nil }

// secret reports whether only members may know of the room.
func (r *room) secret() bool { return r.kind != chatproto.RoomPublic }

// dead reports whether nobody will see the room again.
func (r *room) dead() bool {
	return (r.kind == chatproto.RoomPrivate || r.kind == chatproto.RoomSealed) && len(r.members.names) == 0
}

// peer returns the other user of a direct room.
func (r *room) peer(user string) string {
	if user == r.peer1 {
		return r.peer2
	}
	return r.peer1
}

// info describes the room to user.
func (r *room) info(user string) chatproto.RoomInfo {
	i := chatproto.RoomInfo{
		Room: r.id, Kind: r.kind, Name: r.name, Topic: r.topic, Owner: r.owner,
		Members: uint32(len(r.members.names)), First: r.first, Last: r.last, Epoch: r.epoch, Member: r.has(user),
	}
	if r.kind == chatproto.RoomDirect {
		i.Peer = r.peer(user)
	}
	return i
}

// state is a set of rooms and the ways to find them. The writer has one of its
// own, in which the changes of a batch see each other; the other one, which
// readers see, follows after the commit.
type state struct {
	rooms  map[chatproto.RoomID]*room
	named  map[string]chatproto.RoomID // by folded name
	folds  []string                    // the folded names, sorted
	direct map[[2]string]chatproto.RoomID
	of     map[string]map[chatproto.RoomID]struct{} // by member
	made   map[string]int                           // rooms with a name, by maker
}

func newState() *state {
	return &state{
		rooms: make(map[chatproto.RoomID]*room), named: make(map[string]chatproto.RoomID),
		direct: make(map[[2]string]chatproto.RoomID), of: make(map[string]map[chatproto.RoomID]struct{}),
		made: make(map[string]int),
	}
}

// put makes r the present state of its room. It is cheap unless the members or
// the name change.
func (s *state) put(r *room) {
	old := s.rooms[r.id]
	if old == r {
		return
	}
	s.rooms[r.id] = r
	if old == nil && r.kind == chatproto.RoomDirect {
		s.direct[[2]string{r.peer1, r.peer2}] = r.id
	}
	if old == nil || old.fold != r.fold {
		s.unname(old)
		s.enroll(r)
	}
	if old == nil {
		s.moved(r.id, nil, r.members.names)
	} else if old.members != r.members {
		s.moved(r.id, old.members.names, r.members.names)
	}
}

// drop takes a room out, as if it had never been.
func (s *state) drop(id chatproto.RoomID) {
	old := s.rooms[id]
	delete(s.rooms, id)
	s.unname(old)
	if old.kind == chatproto.RoomDirect {
		delete(s.direct, [2]string{old.peer1, old.peer2})
	}
	s.moved(id, old.members.names, nil)
}

// moved records that the members of a room are others now.
func (s *state) moved(id chatproto.RoomID, gone, came []string) {
	for _, user := range gone {
		delete(s.of[user], id)
		if len(s.of[user]) == 0 {
			delete(s.of, user)
		}
	}
	for _, user := range came {
		if s.of[user] == nil {
			s.of[user] = make(map[chatproto.RoomID]struct{})
		}
		s.of[user][id] = struct{}{}
	}
}

// enroll enters the room's name.
func (s *state) enroll(r *room) {
	if r.fold == "" {
		return
	}
	s.named[r.fold] = r.id
	s.made[r.maker]++
	i, _ := slices.BinarySearch(s.folds, r.fold)
	s.folds = slices.Insert(s.folds, i, r.fold)
}

// unname takes the name of r out; r may be nil.
func (s *state) unname(r *room) {
	if r == nil || r.fold == "" {
		return
	}
	delete(s.named, r.fold)
	if s.made[r.maker]--; s.made[r.maker] == 0 {
		delete(s.made, r.maker)
	}
	if i, found := slices.BinarySearch(s.folds, r.fold); found {
		s.folds = slices.Delete(s.folds, i, i+1)
	}
}

// pair puts two users into the order in which a direct room has them.
func pair(a, b string) [2]string {
	if strings.Compare(a, b) > 0 {
		a, b = b, a
	}
	return [2]string{a, b}
}
