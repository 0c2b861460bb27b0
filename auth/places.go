package auth

import "sync"

// places bounds how many connections are between accept and log-in. Where all are
// taken, who has had one longest gives it up to who comes: an honest client is through
// in a moment, so that those who only sit there keep nobody out. The zero value is
// ready. It is safe for concurrent use.
type places struct {
	mu        sync.Mutex
	total     int
	byAddress map[string][]*place // the oldest first
	taken     uint64
}

// place is one connection's.
type place struct {
	address string
	number  uint64 // of places ever taken
	evict   func() // ends the handshake; called once at most, without mu
}

// take takes a place, from somebody else if need be: of the same address where that
// has its share, otherwise of the address with the most. It ends with leave.
func (p *places) take(address string, limit, perAddress int, evict func()) *place {
	p.mu.Lock()
	var loser *place
	switch {
	case len(p.byAddress[address]) >= perAddress:
		loser = p.byAddress[address][0]
	case p.total >= limit:
		loser = p.fullest()
	}
	if loser != nil {
		p.remove(loser)
	}
	if p.byAddress == nil {
		p.byAddress = make(map[string][]*place)
	}
	p.taken++
	at := &place{address: address, number: p.taken, evict: evict}
	p.byAddress[address] = append(p.byAddress[address], at)
	p.total++
	p.mu.Unlock()
	if loser != nil {
		loser.evict()
	}
	return at
}

// fullest returns the oldest place of the address that has the most, and of several
// such addresses the oldest of all. mu is held.
func (p *places) fullest() (oldest *place) {
	most := 0
	for _, list := range p.byAddress {
		if len(list) > most || len(list) == most && list[0].number < oldest.number {
			most, oldest = len(list), list[0]
		}
	}
	return oldest
}

// remove gives a place back, unless that was done before. mu is held.
func (p *places) remove(at *place) {
	list := p.byAddress[at.address]
	for i, other := range list {
		if other != at {
			continue
		}
		if len(list) == 1 {
			delete(p.byAddress, at.address)
		} else {
			p.byAddress[at.address] = append(list[:i:i], list[i+1:]...)
		}
		p.total--
		return
	}
}

// leave gives a place back.
func (p *places) leave(at *place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(at)
}
