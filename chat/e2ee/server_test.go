package e2ee

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// memKV is a KV in memory that can fail.
type memKV struct {
	mu   sync.Mutex
	m    map[string][]byte
	fail func(op string) error // "get", "update", "list"; may be nil
}

func newKV() *memKV { return &memKV{m: make(map[string][]byte)} }

func (k *memKV) check(op string) error {
	if k.fail == nil {
		return nil
	}
	return k.fail(op)
}

func (k *memKV) Get(key string) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.m[key], k.check("get")
}

func (k *memKV) List(prefix string) (map[string][]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[string][]byte)
	for key, v := range k.m {
		if strings.HasPrefix(key, prefix) {
			out[key] = v
		}
	}
	return out, k.check("list")
}

type memTx struct {
	k   *memKV
	put map[string][]byte
}

func (t *memTx) Get(key string) ([]byte, error) { return t.k.m[key], nil }
func (t *memTx) Put(key string, v []byte)       { t.put[key] = v }

func (k *memKV) Update(fn func(tx Tx) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := &memTx{k, make(map[string][]byte)}
	if err := fn(t); err != nil {
		return err
	}
	if err := k.check("update"); err != nil {
		return err
	}
	for key, v := range t.put {
		if v == nil {
			delete(k.m, key)
		} else {
			k.m[key] = bytes.Clone(v)
		}
	}
	return nil
}

func (k *memKV) copy() *memKV {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &memKV{m: maps.Clone(k.m)}
}

// server is an honest chat server, as far as sealed rooms go. Tests make it
// hostile by changing what it holds, or through the hooks of a view.
type server struct {
	mu    sync.Mutex
	lists map[string][][]byte
	mails map[string][]chatproto.Mail
	rooms map[chatproto.RoomID]*fakeRoom
}

type fakeRoom struct {
	id      chatproto.RoomID
	name    string
	members []string // in the order in which they came
	owner   string
	log     []chatproto.Message
	first   uint64 // number of the oldest entry that is kept
	headers [][]byte
	boxes   map[uint64]map[chatproto.DeviceID][]byte
	stale   bool
}

func newServer() *server {
	return &server{lists: map[string][][]byte{}, mails: map[string][]chatproto.Mail{}, rooms: map[chatproto.RoomID]*fakeRoom{}}
}

// view is the server as one user's connection sees it.
type view struct {
	*server
	user    string
	lists   func(user string, lists [][]byte) [][]byte                               // hook on what is answered
	history func(room chatproto.RoomID, log []chatproto.Message) []chatproto.Message // hook
	keys    func(room chatproto.RoomID, keys []chatproto.KeyEpoch) []chatproto.KeyEpoch
	down    func(op string) error
}

func (s *server) as(user string) *view { return &view{server: s, user: user} }

func (v *view) check(op string) error {
	if v.down == nil {
		return nil
	}
	return v.down(op)
}

func (v *view) Devices(_ context.Context, user string, from uint64) ([][]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := v.server.lists[user]
	if v.lists != nil {
		all = v.lists(user, all)
	}
	if from > uint64(len(all)) {
		return nil, v.check("devices")
	}
	return slices.Clone(all[from-1:]), v.check("devices")
}

func (v *view) PutDevices(_ context.Context, version uint64, list []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.check("putdevices"); err != nil {
		return err
	}
	if version != uint64(len(v.server.lists[v.user]))+1 {
		return chatproto.ErrConflict
	}
	v.server.lists[v.user] = append(v.server.lists[v.user], bytes.Clone(list))
	for _, r := range v.rooms {
		if slices.Contains(r.members, v.user) {
			r.stale = true
		}
	}
	return v.check("putdevices-lost")
}

func (v *view) Mail(context.Context) ([]chatproto.Mail, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.mails[v.user]), v.check("mail")
}

func (v *view) PutMail(_ context.Context, m chatproto.Mail) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mails[v.user] = append(v.mails[v.user], m)
	return v.check("putmail")
}

func (v *view) DropMail(_ context.Context, id chatproto.ID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mails[v.user] = slices.DeleteFunc(v.mails[v.user], func(m chatproto.Mail) bool { return m.ID == id })
	return nil
}

func (v *view) room(id chatproto.RoomID) (*fakeRoom, error) {
	r := v.rooms[id]
	if r == nil || !slices.Contains(r.members, v.user) {
		return nil, chatproto.ErrNoRoom
	}
	return r, nil
}

func (v *view) Keys(_ context.Context, room chatproto.RoomID, device chatproto.DeviceID, from uint64) ([]chatproto.KeyEpoch, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, err := v.room(room)
	if err != nil {
		return nil, err
	}
	var out []chatproto.KeyEpoch
	for n := max(from, 1); n <= uint64(len(r.headers)) && len(out) < 3; n++ { // pages of three
		out = append(out, chatproto.KeyEpoch{Epoch: n, Header: r.headers[n-1], Box: r.boxes[n][device]})
	}
	if v.keys != nil {
		out = v.keys(room, out)
	}
	return out, v.check("keys")
}

func (v *view) PutKeys(_ context.Context, room chatproto.RoomID, req *chatproto.PutKeysReq) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, err := v.room(room)
	if err != nil {
		return err
	}
	if err := v.check("putkeys"); err != nil {
		return err
	}
	if req.Epoch != uint64(len(r.headers))+1 {
		return chatproto.ErrConflict
	}
	size := len(req.Header)
	r.headers = append(r.headers, bytes.Clone(req.Header))
	r.boxes[req.Epoch] = make(map[chatproto.DeviceID][]byte)
	for _, k := range req.Keys {
		size += 28 + len(k.Box)
		r.boxes[k.Epoch][k.Device] = bytes.Clone(k.Box)
	}
	if size > chatproto.MaxKeysSize {
		panic("request for an epoch is too large")
	}
	r.stale = false
	r.append(chatproto.Message{ID: req.ID, Kind: chatproto.KindKeys, From: v.user, Body: binary.LittleEndian.AppendUint64(nil, req.Epoch)})
	return nil
}

func (v *view) AddKeys(_ context.Context, room chatproto.RoomID, keys []chatproto.SealedKey) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, err := v.room(room)
	if err != nil {
		return err
	}
	if err := v.check("addkeys"); err != nil {
		return err
	}
	for _, k := range keys {
		if r.boxes[k.Epoch] == nil {
			return errors.New("no such epoch")
		}
		if _, have := r.boxes[k.Epoch][k.Device]; !have {
			r.boxes[k.Epoch][k.Device] = bytes.Clone(k.Box)
		}
	}
	return nil
}

func (v *view) History(_ context.Context, room chatproto.RoomID, after uint64) ([]chatproto.Message, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r, err := v.room(room)
	if err != nil {
		return nil, err
	}
	all := r.kept()
	if v.history != nil {
		all = v.history(room, all)
	}
	var out []chatproto.Message
	for _, m := range all {
		if m.Seq > after && len(out) < 5 { // pages of five
			out = append(out, m)
		}
	}
	return out, v.check("history")
}

func (r *fakeRoom) kept() []chatproto.Message {
	out := slices.Clone(r.log)
	return slices.DeleteFunc(out, func(m chatproto.Message) bool { return m.Seq < r.first })
}

func (r *fakeRoom) append(m chatproto.Message) {
	m.Room, m.Seq = r.id, uint64(len(r.log))+1
	m.Body = bytes.Clone(m.Body)
	r.log = append(r.log, m)
}

func (s *server) create(user, name string, id chatproto.ID, proof []byte) chatproto.RoomID {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &fakeRoom{id: chatproto.RoomID(len(s.rooms) + 1), name: name, owner: user, members: []string{user}, first: 1, stale: true, boxes: map[uint64]map[chatproto.DeviceID][]byte{}}
	s.rooms[r.id] = r
	r.append(chatproto.Message{ID: id, Kind: chatproto.KindCreate, From: user, Body: proof})
	return r.id
}

// change is invite, remove and leave.
func (s *server) change(kind uint8, user string, room chatproto.RoomID, id chatproto.ID, target string, proof []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[room]
	if !slices.Contains(r.members, user) {
		return chatproto.ErrNoRoom
	}
	gone := target
	switch kind {
	case chatproto.KindInvite:
		if slices.Contains(r.members, target) {
			return chatproto.ErrExists
		}
		r.members = append(r.members, target)
		gone = ""
	case chatproto.KindRemove:
		if r.owner != user || !slices.Contains(r.members, target) {
			return chatproto.ErrNotAllowed
		}
	case chatproto.KindLeave:
		gone = user
	}
	if gone != "" {
		r.members = slices.DeleteFunc(r.members, func(u string) bool { return u == gone })
		if r.owner == gone && len(r.members) > 0 {
			r.owner = r.members[0]
		}
	}
	r.stale = true
	r.append(chatproto.Message{ID: id, Kind: kind, From: user, Target: target, Body: proof})
	return nil
}

func (s *server) say(user string, room chatproto.RoomID, id chatproto.ID, epoch uint64, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[room]
	if !slices.Contains(r.members, user) {
		return chatproto.ErrNoRoom
	}
	if r.stale || epoch != uint64(len(r.headers)) {
		return chatproto.ErrStaleKey
	}
	r.append(chatproto.Message{ID: id, Kind: chatproto.KindSealed, From: user, Body: body})
	return nil
}

// person is a device with somebody at it.
type person struct {
	t    testing.TB
	user string
	e    *Engine
	kv   *memKV
	v    *view
	at   map[chatproto.RoomID]uint64
	got  []string // texts, as "user: text"
	warn []string
}

func (s *server) device(t testing.TB, user, name string) *person {
	t.Helper()
	kv := newKV()
	e, err := Open(kv, user, Options{Name: name})
	must(t, err)
	return &person{t: t, user: user, e: e, kv: kv, v: s.as(user), at: map[chatproto.RoomID]uint64{}}
}

// person returns the first device of a user, enrolled.
func (s *server) person(t testing.TB, user string) *person {
	t.Helper()
	p := s.device(t, user, user+"'s first")
	must(t, p.e.Ready(t.Context(), p.v))
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var lastID struct {
	sync.Mutex
	n uint64
}

func newID() (id chatproto.ID) {
	lastID.Lock()
	defer lastID.Unlock()
	lastID.n++
	binary.BigEndian.PutUint64(id[8:], lastID.n)
	return id
}

func (p *person) create(name string) chatproto.RoomID {
	p.t.Helper()
	id := newID()
	proof, err := p.e.CreateProof(p.t.Context(), p.v, id, name)
	must(p.t, err)
	return p.v.create(p.user, name, id, proof)
}

func (p *person) invite(room chatproto.RoomID, user string) {
	p.t.Helper()
	id := newID()
	proof, err := p.e.InviteProof(p.t.Context(), p.v, room, id, user)
	must(p.t, err)
	must(p.t, p.v.change(chatproto.KindInvite, p.user, room, id, user, proof))
}

func (p *person) remove(room chatproto.RoomID, user string) {
	p.t.Helper()
	id := newID()
	proof, err := p.e.RemoveProof(p.t.Context(), p.v, room, id, user)
	must(p.t, err)
	must(p.t, p.v.change(chatproto.KindRemove, p.user, room, id, user, proof))
}

func (p *person) leave(room chatproto.RoomID) {
	p.t.Helper()
	id := newID()
	proof, err := p.e.LeaveProof(p.t.Context(), p.v, room, id)
	must(p.t, err)
	must(p.t, p.v.change(chatproto.KindLeave, p.user, room, id, "", proof))
}

func (p *person) trySay(room chatproto.RoomID, text string) error {
	id := newID()
	for range 8 {
		epoch, body, err := p.e.Seal(p.t.Context(), p.v, room, id, chatproto.KindText, text)
		if err != nil {
			return err
		}
		if len(body) > chatproto.MaxBody {
			return fmt.Errorf("body of %d bytes", len(body))
		}
		err = p.v.say(p.user, room, id, epoch, body)
		if err == nil {
			return p.e.Said(room, id)
		}
		if !errors.Is(err, chatproto.ErrStaleKey) {
			return err
		}
	}
	return errors.New("stale for ever")
}

func (p *person) say(room chatproto.RoomID, text string) {
	p.t.Helper()
	must(p.t, p.trySay(room, text))
}

// pull receives all that is new, and returns the texts of it.
func (p *person) pull(room chatproto.RoomID) []string {
	p.t.Helper()
	var texts []string
	for _, o := range p.receive(room) {
		if o.Kind == chatproto.KindText {
			texts = append(texts, o.Text)
		}
	}
	return texts
}

func (p *person) receive(room chatproto.RoomID) []Opened {
	p.t.Helper()
	var all []Opened
	for {
		page, err := p.v.History(p.t.Context(), room, p.at[room])
		must(p.t, err)
		if len(page) == 0 {
			return all
		}
		for i := range page {
			o, err := p.e.Receive(p.t.Context(), p.v, &page[i])
			must(p.t, err)
			p.at[room] = page[i].Seq
			p.warn = append(p.warn, o.Warnings...)
			if o.Kind == chatproto.KindText {
				p.got = append(p.got, page[i].From+": "+o.Text)
			}
			all = append(all, o)
		}
	}
}

func (p *person) wantNoWarnings() {
	p.t.Helper()
	if len(p.warn) > 0 {
		p.t.Fatalf("%s is warned: %q", p.user, p.warn)
	}
}

func (p *person) wantWarning(part string) {
	p.t.Helper()
	if !slices.ContainsFunc(p.warn, func(w string) bool { return strings.Contains(w, part) }) {
		p.t.Fatalf("%s has no warning with %q: %q", p.user, part, p.warn)
	}
}

func want(t testing.TB, got []string, texts ...string) {
	t.Helper()
	if !slices.Equal(got, texts) {
		t.Fatalf("got %q, want %q", got, texts)
	}
}
