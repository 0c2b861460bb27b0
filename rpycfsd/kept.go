package rpycfsd

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/internal/keeper"
	"github.com/rpycfs/rpycfs/internal/mapped"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpycfsd/export"
	"golang.org/x/sys/unix"
)

// kept is what sessions have, outside of this process: when it is killed, or ended to be
// started again, the next one that serves the same directory at the same addresses goes
// on with it. A nil one keeps nothing.
//
// Records stand in a mapped file of the state directory, open files at a keeper.
type kept struct {
	store   *mapped.Store
	keeper  *keeper.Client
	records []mapped.Record // of the process before, until they are used
	fds     map[uint64]int
	ended   time.Time // when that process had ended, at the latest

	alive   mapped.Cell   // when a process with sessions was last known to live
	stop    chan struct{} // nil: nothing is kept
	beating sync.WaitGroup
}

// maxBeat is how often it is noted that the process lives, or four times in a grace.
const maxBeat = 30 * time.Second

// lockPatience is how long an earlier process may take to end.
const lockPatience = 10 * time.Second

// Kinds of records.
const (
	recSession = export.FirstKind + iota
	recServed
	recSent
	recAlive // nanoseconds of the clock that counts from boot, a word
)

// openKept opens what is kept, unless the daemon listens at addresses of the kernel's
// choice, where no client would find the next one.
func openKept(cfg *Config) (*kept, error) {
	name, ok := keptName(cfg)
	if !ok {
		return nil, nil
	}
	k := &kept{}
	var err error
	for end := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		k.store, k.records, err = mapped.Open(filepath.Join(cfg.State, name+".sessions"))
		if !errors.Is(err, mapped.ErrBusy) || time.Now().After(end) {
			break // the earlier process has ended, calls in the kernel included
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sessions of before: %w", err)
	}
	k.ended = time.Now()
	if len(cfg.Keeper) > 0 {
		if k.keeper, k.fds, err = keeper.Connect(filepath.Join(cfg.State, name+".keeper"), cfg.Keeper, cfg.Log); err != nil {
			cfg.Log.Error("no keeper: open files that lose their names will not survive a restart of the daemon", "err", err)
		}
		if seen := k.keeper.Ended(); !seen.IsZero() {
			k.ended = seen
		}
	}
	return k, nil
}

// live notes now and then that the process lives, while there are sessions.
func (k *kept) live(beat time.Duration, sessions func() bool) {
	if k == nil {
		return
	}
	k.stop = make(chan struct{})
	k.beating.Go(func() {
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			if sessions() {
				k.noteAlive()
			}
			select {
			case <-tick.C:
			case <-k.stop:
				return
			}
		}
	})
}

func (k *kept) noteAlive() {
	if k.alive.IsZero() {
		var err error
		if k.alive, err = k.store.Put(recAlive, make([]byte, 8)); err != nil {
			return
		}
	}
	k.alive.SetWord(0, uint64(sinceBoot()))
}

// sinceBoot is the time since the machine was started.
func sinceBoot() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

// keptName names a daemon among those that share a state directory.
func keptName(cfg *Config) (string, bool) {
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return "", false
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	addresses := slices.Clone(cfg.Listen)
	for _, ln := range cfg.Sockets {
		addresses = append(addresses, ln.Addr().String())
	}
	slices.Sort(addresses)
	for _, a := range addresses {
		if strings.HasSuffix(a, ":0") {
			return "", false
		}
	}
	sum := sha256.Sum256([]byte(path + "\x00" + strings.Join(addresses, "\x00")))
	return fmt.Sprintf("%x", sum[:8]), true
}

// forExport is what the export keeps things by.
func (k *kept) forExport() export.Keep {
	if k == nil {
		return export.Keep{}
	}
	return export.Keep{Store: k.store, Keeper: k.keeper, Ended: k.ended}
}

// freeze has everything stay as it is.
func (k *kept) freeze() {
	if k == nil {
		return
	}
	if k.stop != nil {
		close(k.stop)
		k.beating.Wait()
		k.stop = nil
	}
	if !k.alive.IsZero() {
		k.noteAlive()
	}
	k.store.Freeze()
	k.keeper.Close()
}

func (k *kept) close() error {
	if k == nil {
		return nil
	}
	k.freeze()
	return k.store.Close()
}

// sessionRec is a session. Its words are changed in place.
type sessionRec struct {
	epoch  uint64 // a word, 0 at first
	id     [16]byte
	secret [32]byte
	user   string
}

func (r *sessionRec) Fields(c *rpc.Codec) {
	c.U64(&r.epoch)
	c.Fixed(r.id[:])
	c.Fixed(r.secret[:])
	c.String(&r.user, auth.MaxUserName)
}

// The record of a slot begins with the session's key and the slot's number, u64 each.
// What follows are words, changed in place.
//
//	of the client's calls   sequence<<1 | running · history · kind<<32 | length of the
//	                        reply · length of the note · note · reply
//	of this side's          sequence
const (
	wordState   = 16
	wordHistory = 24
	wordReply   = 32
	wordNote    = 40
	noteAt      = 48
	replyAt     = noteAt + rpc.MaxNote
	servedSize  = replyAt + rpc.MaxSlotReply

	wordSent = 16
	sentSize = 24
)

// record is the record of one session, and its rpc.SlotLog. A nil one records nothing.
type record struct {
	k       *kept
	session mapped.Cell
	log     *slog.Logger

	mu     sync.Mutex
	served map[uint32]mapped.Cell
	sent   map[uint32]mapped.Cell
}

func (k *kept) newRecord(cell mapped.Cell, log *slog.Logger) *record {
	return &record{k: k, session: cell, log: log, served: make(map[uint32]mapped.Cell), sent: make(map[uint32]mapped.Cell)}
}

// begin records a session; nil if nothing is kept, or it cannot be.
func (k *kept) begin(s *session) *record {
	if k == nil {
		return nil
	}
	body, err := rpc.Encode(nil, &sessionRec{id: s.id, secret: s.secret, user: s.user})
	var cell mapped.Cell
	if err == nil {
		cell, err = k.store.Put(recSession, body)
	}
	if err != nil {
		s.log.Error("the session will not survive a restart of the daemon", "err", err)
		return nil
	}
	cell.SetWord(0, uint64(s.epoch))
	return k.newRecord(cell, s.log)
}

// key names the session in the export's records; 0 is no record.
func (r *record) key() uint64 {
	if r == nil {
		return 0
	}
	return r.session.ID()
}

func (r *record) setEpoch(epoch uint32) {
	if r != nil {
		r.session.SetWord(0, uint64(epoch))
	}
}

// end gives the record up: first the session's, without which the others are nothing.
func (r *record) end() {
	if r == nil {
		return
	}
	r.session.Free()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, cells := range []map[uint32]mapped.Cell{r.served, r.sent} {
		for slot, cell := range cells {
			cell.Free()
			delete(cells, slot)
		}
	}
}

// cell returns the record of a slot, made at its first use; none if that is impossible.
func (r *record) cell(in map[uint32]mapped.Cell, kind uint8, slot uint32, size int) mapped.Cell {
	r.mu.Lock()
	defer r.mu.Unlock()
	cell, ok := in[slot]
	if !ok {
		body := make([]byte, 16, size)
		binary.LittleEndian.PutUint64(body, r.session.ID())
		binary.LittleEndian.PutUint64(body[8:], uint64(slot))
		var err error
		if cell, err = r.k.store.Put(kind, body[:size]); err != nil {
			r.session.Free() // half of a session would be worse than none
			r.log.Error("the session will not survive a restart of the daemon", "err", err)
		}
		in[slot] = cell
	}
	return cell
}

// Began notes that a call runs.
func (r *record) Began(d rpc.Dep) {
	cell := r.cell(r.served, recServed, d.Slot, servedSize)
	if running := uint64(d.Seq)<<1 | 1; cell.Get(wordState) != running { // else it comes again, and its note stands
		cell.SetWord(wordNote, 0)
		cell.SetWord(wordState, running)
	}
}

// Noted notes what is about to be changed.
func (r *record) Noted(d rpc.Dep, note []byte) {
	cell := r.cell(r.served, recServed, d.Slot, servedSize)
	cell.SetWord(wordNote, 0)
	cell.Write(noteAt, note)
	cell.SetWord(wordNote, uint64(len(note)))
}

// Ended notes how a call was answered.
func (r *record) Ended(s rpc.ServedSlot) {
	cell := r.cell(r.served, recServed, s.Slot, servedSize)
	cell.Write(replyAt, s.Reply)
	cell.SetWord(wordReply, uint64(s.Kind)<<32|uint64(len(s.Reply)))
	cell.SetWord(wordHistory, s.History)
	cell.SetWord(wordState, uint64(s.Seq)<<1)
}

// Sent notes that a call was sent.
func (r *record) Sent(d rpc.Dep) {
	r.cell(r.sent, recSent, d.Slot, sentSize).SetWord(wordSent, uint64(d.Seq))
}

// recover goes on with the sessions of the process before. They have their grace from
// now on.
func (t *sessions) recover(users *auth.Users) {
	k := t.kept
	if k == nil {
		return
	}
	beat := min(maxBeat, t.grace/4)
	defer k.live(beat, t.some)
	var found []mapped.Record
	var away time.Duration // how long no process lived
	slots := make(map[uint64]*slotRecords)
	rest := slices.DeleteFunc(k.records, func(rec mapped.Record) bool {
		switch rec.Kind {
		case recSession:
			found = append(found, rec)
		case recAlive:
			k.alive = rec.Cell
			away = sinceBoot() - time.Duration(rec.Word(0).Load())
		case recServed, recSent:
			key := binary.LittleEndian.Uint64(rec.Body)
			if slots[key] == nil {
				slots[key] = new(slotRecords)
			}
			slots[key].add(rec)
		default:
			return false
		}
		return true
	})
	r := t.export.Recover(rest, k.fds)
	k.records, k.fds = nil, nil
	if away > t.grace+beat {
		t.log.Info("sessions of before are over: no daemon ran for longer than their grace", "sessions", len(found))
		for _, rec := range found {
			rec.Free()
		}
		found = nil
	}
	for _, rec := range found {
		if slots[rec.ID()] == nil {
			slots[rec.ID()] = new(slotRecords)
		}
		r.Undecided(slots[rec.ID()].undecided())
	}
	for _, rec := range found {
		if err := t.revive(rec, slots[rec.ID()], r, users); err != nil {
			t.log.Info("a session of before cannot go on", "err", err)
			rec.Free()
			continue
		}
		delete(slots, rec.ID())
	}
	for _, s := range slots {
		s.free()
	}
	r.Close()
}

// some reports whether there are any sessions.
func (t *sessions) some() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID) > 0
}

// slotRecords are what is recorded of a session's slots.
type slotRecords struct{ served, sent []mapped.Record }

func (r *slotRecords) add(rec mapped.Record) {
	if rec.Kind == recServed {
		r.served = append(r.served, rec)
	} else {
		r.sent = append(r.sent, rec)
	}
}

func (r *slotRecords) free() {
	for _, rec := range slices.Concat(r.served, r.sent) {
		rec.Free()
	}
}

// undecided returns the calls that had begun and not ended, with their notes.
func (r *slotRecords) undecided() map[rpc.Dep][]byte {
	calls := make(map[rpc.Dep][]byte)
	for _, rec := range r.served {
		if state := rec.Word(wordState).Load(); state&1 == 1 {
			d := rpc.Dep{Slot: uint32(binary.LittleEndian.Uint64(rec.Body[8:])), Seq: uint32(state >> 1)}
			calls[d] = slices.Clone(rec.Body[noteAt : noteAt+min(int(rec.Word(wordNote).Load()), rpc.MaxNote)])
		}
	}
	return calls
}

// slots reads the records, which become those of into.
func (r *slotRecords) slots(into *record) (from rpc.Slots) {
	undecided := r.undecided()
	for _, rec := range r.served {
		slot, state := uint32(binary.LittleEndian.Uint64(rec.Body[8:])), rec.Word(wordState).Load()
		into.served[slot] = rec.Cell
		s := rpc.ServedSlot{Dep: rpc.Dep{Slot: slot, Seq: uint32(state >> 1)}, Running: state&1 == 1, History: rec.Word(wordHistory).Load()}
		reply := rec.Word(wordReply).Load()
		s.Kind = uint8(reply >> 32)
		s.Reply = slices.Clone(rec.Body[replyAt : replyAt+min(int(uint32(reply)), rpc.MaxSlotReply)])
		s.Note = undecided[s.Dep]
		from.Served = append(from.Served, s)
	}
	for _, rec := range r.sent {
		slot, seq := uint32(binary.LittleEndian.Uint64(rec.Body[8:])), rec.Word(wordSent).Load()
		into.sent[slot] = rec.Cell
		from.Sent = append(from.Sent, rpc.Dep{Slot: slot, Seq: uint32(seq)})
	}
	return from
}

// revive goes on with one session.
func (t *sessions) revive(rec mapped.Record, slots *slotRecords, r *export.Recovery, users *auth.Users) error {
	var m sessionRec
	if err := rpc.Decode(slices.Clone(rec.Body), &m); err != nil {
		return err
	}
	user, ok := users.Lookup(m.user)
	if !ok {
		return fmt.Errorf("user %s was removed", m.user)
	}
	id, err := exportIdentity(&user, t.runAs)
	if err != nil {
		return err
	}
	s := &session{table: t, id: m.id, secret: m.secret, user: m.user}
	s.log = t.log.With("user", s.user, "session", fmt.Sprintf("%x", s.id[:4]))
	s.record = t.kept.newRecord(rec.Cell, s.log)
	from, undecided := slots.slots(s.record), slots.undecided()
	files, tell, err := r.Session(id, rec.ID(), undecided)
	if err != nil {
		return fmt.Errorf("session of %s: %w", m.user, err)
	}
	if err := t.reserve(s.user); err != nil {
		files.Close()
		return err
	}
	s.files = files
	s.epoch = uint32(rec.Word(0).Load())
	s.serving = s.epoch
	t.begin(s, from)
	tell(s.peer)
	s.lost(s.serving, t.grace, nil)
	s.log.Info("session goes on", "undecided", len(undecided))
	return nil
}
