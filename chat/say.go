package chat

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rpycfs/rpycfs/chat/local"
)

// Pending returns the messages that wait in the outbox, in order.
func (c *Client) Pending() []Message {
	o := c.outbox
	o.mu.Lock()
	var all []*outgoing
	for _, queue := range o.lanes {
		all = append(all, *queue...)
	}
	o.mu.Unlock()
	slices.SortFunc(all, func(a, b *outgoing) int { return cmp.Compare(a.N, b.N) })
	messages := make([]Message, len(all))
	for i, m := range all {
		messages[i] = c.pending(&m.Queued)
	}
	return messages
}

// pending makes a Message of one that waits.
func (c *Client) pending(q *local.Queued) Message {
	m := Message{Room: q.Room, ID: q.ID, Kind: q.Kind, From: c.user, Text: q.Text, Sent: time.UnixMicro(q.Sent), Sealed: q.Seal, Pending: true}
	if q.Peer != "" {
		m.RoomName = "@" + q.Peer
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if q.Peer != "" {
		if r := c.find(m.RoomName); r != nil {
			m.Room = r.state.Info.Room
		}
	} else if r := c.rooms[q.Room]; r != nil {
		m.RoomName = r.title()
	}
	return m
}

// Flush waits until nothing waits in the outbox.
func (c *Client) Flush(ctx context.Context) error {
	o := c.outbox
	for {
		o.mu.Lock()
		if len(o.lanes) == 0 {
			o.mu.Unlock()
			return nil
		}
		if o.empty == nil {
			o.empty = make(chan struct{})
		}
		empty := o.empty
		o.mu.Unlock()
		select {
		case <-empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.ctx.Done():
			return c.ending()
		}
	}
}

// say puts a message into the outbox and waits for its acknowledgement. When the
// connection has been lost for some time, or ctx ends, the message stays in the
// outbox and the error is ErrQueued.
func (o *outbox) say(ctx context.Context, to destination, kind uint8, text string) (Message, error) {
	if ctx.Err() != nil {
		return Message{}, context.Cause(ctx)
	}
	m, err := o.put(to, kind, text, true)
	if err != nil {
		return Message{}, err
	}
	for {
		var late <-chan time.Time
		up, since, changed := o.c.connection()
		if !up {
			late = time.After(time.Until(since.Add(minLag)))
		}
		select {
		case result := <-m.result:
			return o.c.acknowledged(&m.Queued, result)
		case <-changed:
			continue
		case <-late:
			err = ErrQueued
		case <-ctx.Done():
			err = errors.Join(ErrQueued, context.Cause(ctx))
		case <-o.c.ctx.Done():
			if err = o.c.ending(); o.state != nil {
				err = errors.Join(ErrQueued, err)
			}
		}
		return o.leave(m, err)
	}
}

// leave gives up waiting for a message, unless its result has just come. What
// becomes of it later is told by events.
func (o *outbox) leave(m *outgoing, err error) (Message, error) {
	o.mu.Lock()
	select {
	case result := <-m.result:
		o.mu.Unlock()
		return o.c.acknowledged(&m.Queued, result)
	default:
	}
	m.result = nil
	o.mu.Unlock()
	return o.c.pending(&m.Queued), err
}

func (c *Client) acknowledged(q *local.Queued, result said) (Message, error) {
	m := c.pending(q)
	if result.err != nil {
		return m, result.err
	}
	m.Pending = false
	m.Room, m.Seq, m.Time = result.room, result.res.Seq, time.UnixMicro(result.res.Time)
	return m, nil
}

// ending returns why the client has ended.
func (c *Client) ending() error {
	if err := c.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// connection returns whether the connection stands, since when it does or does
// not, and a channel that is closed when that changes.
func (c *Client) connection() (up bool, since time.Time, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up, c.upSince, c.changed
}
