package chat

import (
	"context"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/local"
)

// sealedHistory is History of a sealed room.
func (r *Room) sealedHistory(ctx context.Context, before uint64, n int) ([]Message, error) {
	s := r.c.sealed
	n = min(max(n, 1), chatproto.MaxPage)
	if up, _, _ := r.c.connection(); up {
		if err := r.openAll(ctx); err != nil {
			return nil, err
		}
	}
	entries, err := s.state.History(r.id, before, n)
	if err != nil {
		return nil, err
	}
	if entries, err = r.reopen(ctx, before, n, entries); err != nil {
		return nil, err
	}
	page := make([]Message, len(entries))
	row := r.row()
	for i := range entries {
		page[i] = r.c.entry(row, &entries[i])
	}
	return page, nil
}

// openAll opens what the room has by now.
func (r *Room) openAll(ctx context.Context) error {
	s := r.c.sealed
	return r.c.retry(ctx, func(l *link) error {
		if err := s.prepare(ctx, l); err != nil {
			return err
		}
		return s.open(ctx, l, r.id, r.Info().Last, nil)
	})
}

// reopen tries entries again for which this device had no key when they came: it
// may have got it since.
func (r *Room) reopen(ctx context.Context, before uint64, n int, entries []local.Entry) ([]local.Entry, error) {
	s := r.c.sealed
	first, last := uint64(0), uint64(0)
	for i := range entries {
		if entries[i].Closed == local.NoKey {
			if first == 0 {
				first = entries[i].Seq
			}
			last = entries[i].Seq
		}
	}
	if up, _, _ := r.c.connection(); first == 0 || !up {
		return entries, nil
	}
	err := r.c.retry(ctx, func(l *link) error {
		unlock, err := s.state.LockRoom(ctx, r.id)
		if err != nil {
			return err
		}
		defer unlock()
		for after := first - 1; after < last; {
			page, err := l.history(ctx, r.id, &chatproto.HistoryReq{After: after, Limit: uint32(min(last-after, chatproto.MaxPage))})
			if err != nil || len(page.Messages) == 0 {
				return err
			}
			if err := s.receive(ctx, l, page.Messages); err != nil {
				return err
			}
			after = page.Messages[len(page.Messages)-1].Seq
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.state.History(r.id, before, n)
}
