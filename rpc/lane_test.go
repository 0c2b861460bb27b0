package rpc

import (
	"io"
	"testing"
)

// TestLane: calls of a stream follow each other. When a connection has joined those that
// come wait until the ones before have their answers, and then go over it in order; of
// other streams they go at once.
func TestLane(t *testing.T) {
	p := NewPeer(Config{Client: true})
	defer p.End(nil)
	c := &conn{peer: p, ready: true, closed: make(chan struct{})}
	links := make([]*link, 4)
	for i := range links {
		links[i] = newLink(c, RoleBulk, nil, io.Discard)
	}
	c.links[RoleBulk] = links[0]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = c
	defer func() { p.conn = nil }()
	var all []*call
	begin := func(stream uint32) *call {
		made := callPool.Get().(*call)
		made.head, made.stream, made.bulk = newBuffer(headerSize), stream, true
		p.lastTag++
		made.tag = p.lastTag
		p.calls[made.tag] = made
		p.assign(made)
		all = append(all, made)
		return made
	}
	first, second := begin(5), begin(5)
	c.extra = links[1:]
	third, fourth := begin(5), begin(5)
	if first.link != links[0] || second.link != links[0] || third.link != nil || fourth.link != nil {
		t.Fatal("they do not wait for those on the link of before")
	}
	if other := begin(6); other.link == links[0] || other.link == nil {
		t.Error("another stream does not go over what has joined")
	}
	p.remove(second)
	if third.link != nil {
		t.Error("the third goes before the first has its answer")
	}
	p.remove(first)
	if third.link == nil || third.link == links[0] || fourth.link != third.link {
		t.Error("those that waited do not go on, over what has joined")
	}
	if fifth := begin(5); fifth.link != third.link {
		t.Error("the next one does not follow")
	}
	for _, made := range all {
		p.remove(made)
	}
	for i := range c.lanes {
		if c.lanes[i].n > 0 || c.lanes[i].held {
			t.Errorf("lane %d: %+v", i, c.lanes[i])
		}
	}
}
