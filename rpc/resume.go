package rpc

// A session can go on in another process, if what happened in its slots is remembered
// outside of this one.

// SlotLog remembers what happens in the slots of a session. Its methods are called with
// locks held, and for one slot in order: they neither block nor fail, nor call the peer.
type SlotLog interface {
	// Began: a call of the other side has arrived and is about to be executed.
	Began(d Dep)
	// Noted: its handler has something to remember, at most MaxNote bytes, before it
	// changes anything.
	Noted(d Dep, note []byte)
	// Ended: it has been, and is about to be answered.
	Ended(s ServedSlot)
	// Sent: this side's call is about to be sent for the first time.
	Sent(d Dep)
}

// ServedSlot is a slot of the other side's calls. If Running is set the last call had
// begun and not ended when the process that served it did; History, Kind and Reply then
// are those of the call before.
type ServedSlot struct {
	Dep
	Running bool
	Note    []byte // of the call that runs
	History uint64 // bit n: whether the call n before this one succeeded
	Kind    uint8
	Reply   []byte
}

// MaxNote bounds what a handler may remember of its call, in bytes.
const MaxNote = 160

// Note remembers something for the process that goes on with the session if this one is
// killed before the call has been answered; another note replaces it.
func (r *Request) Note(note []byte) {
	if log := r.Peer.cfg.Slots; log != nil && r.Op.Slotted() {
		log.Noted(r.Slot, note[:min(len(note), MaxNote)])
	}
}

// Slots are what a SlotLog has remembered: of the calls that were served, and of the
// last call that was sent in each slot.
type Slots struct {
	Served []ServedSlot
	Sent   []Dep
}

// restore goes on where another process has stopped.
func (p *Peer) restore(from *Slots) {
	for i := range from.Served {
		f := &from.Served[i]
		slot := p.in.slot(f.Slot)
		if slot == nil {
			continue
		}
		slot.seq, slot.history, slot.kind, slot.reply = f.Seq, f.History, f.Kind, f.Reply
		if f.Running {
			slot.seq, slot.again, slot.noted = f.Seq-1, f.Seq, f.Note
		}
	}
	p.out.restore(from.Sent)
	for _, d := range from.Sent {
		p.askFor(d)
	}
}

// restore sets the sequence numbers, and keeps the slots that were used from being
// handed out.
func (s *callerSlots) restore(sent []Dep) {
	for _, d := range sent {
		p := s.pool(d.Slot >= s.reserved.first)
		if d.Slot < p.first || d.Slot >= p.end {
			continue
		}
		for missing := int(d.Slot-p.first) + 1 - len(p.seq); missing > 0; missing-- {
			p.seq = append(p.seq, 0)
		}
		p.seq[d.Slot-p.first] = d.Seq
	}
	for _, p := range []*slotPool{&s.free, &s.reserved} {
		for i, seq := range p.seq {
			if seq == 0 {
				p.idle = append(p.idle, p.first+uint32(i))
			}
		}
	}
}

// askFor finds out what became of the last call that was sent in a slot: another one
// takes its sequence number and does nothing. Where the call had arrived it is answered
// as that was. Then the slot is free.
func (p *Peer) askFor(d Dep) {
	c := callPool.Get().(*call)
	c.slotted, c.dep, c.reserved, c.sent = true, d, d.Slot >= p.out.reserved.first, true
	c.head = newBuffer(headerSize)
	f := callFields{flags: flagSlot, dep: d}
	c.head.b[15] = f.flags
	c.codec = Codec{buf: c.head.b}
	f.fields(&c.codec)
	opRelease.reqFields(&c.codec, &releaseReq{})
	c.head.b = c.codec.buf
	if err := c.seal(&opRelease.Info, c.codec.finish()); err != nil {
		panic(err) // an empty message
	}
	p.lastTag++
	c.tag = p.lastTag
	putTag(c.head.b, c.tag)
	p.calls[c.tag] = c
	leave(p, opRelease, c, nil)
}
