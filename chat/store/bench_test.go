package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// BenchmarkSay is durable messages per second from 64 senders in 4 rooms.
func BenchmarkSay(b *testing.B) {
	for _, senders := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d senders", senders), func(b *testing.B) {
			s := benchStore(b)
			rooms := benchRooms(b, s, 4, senders)
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range senders {
				wg.Go(func() {
					user := userName(i)
					for n := i; n < b.N; n += senders {
						req := sayReq(uint64(n)+1, benchText(uint64(n)))
						if _, err := s.Say(context.Background(), user, rooms[n%len(rooms)], req); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "says/s")
		})
	}
}

const million = 1_000_000

// BenchmarkMillion is pages of history and searches in a store of 1 000 000
// messages in 16 rooms, one of which holds half of them.
func BenchmarkMillion(b *testing.B) {
	s := benchStore(b)
	rooms := benchRooms(b, s, 16, 64)
	fill(b, s, rooms, 64)
	ctx, user := context.Background(), userName(3)
	c := script{t: b, s: s}
	last := c.room(rooms[0]).last
	b.Run("history/newest", func(b *testing.B) {
		each(b, func(int) (int, error) {
			res, err := s.History(ctx, user, rooms[0], &chatproto.HistoryReq{})
			return len(res.Messages), err
		})
	})
	b.Run("history/anywhere", func(b *testing.B) {
		r := rand.New(rand.NewPCG(1, 1))
		each(b, func(int) (int, error) {
			res, err := s.History(ctx, user, rooms[0], &chatproto.HistoryReq{Before: 600 + r.Uint64N(last-600)})
			return len(res.Messages), err
		})
	})
	var middle int64
	err := s.read(ctx, func(db *conn) (err error) {
		middle, _, err = db.number("SELECT time FROM places WHERE place = ?", million/2)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	for name, req := range map[string]chatproto.SearchReq{
		"rare word":           {Terms: []string{"needle"}},
		"common word":         {Terms: []string{"the"}},
		"common word, page":   {Terms: []string{"the"}, Limit: 50},
		"phrase":              {Terms: []string{"lazy dog number"}},
		"rare phrase":         {Terms: []string{"needle in a haystack"}},
		"phrase of nothing":   {Terms: []string{"dog lazy"}},
		"common and rare":     {Terms: []string{"the", "needle"}},
		"two that never meet": {Terms: []string{"even", "odd"}},
		"absent word":         {Terms: []string{"xyzzy"}},
		"from and in":         {Terms: []string{"fox"}, From: userName(5), Room: rooms[2]},
		"from alone":          {From: userName(5)},
		"from nobody here":    {Terms: []string{"the"}, From: "outsider"},
		"in a small room":     {Terms: []string{"the"}, Room: rooms[15]},
		"before":              {Terms: []string{"the"}, Before: middle},
		"after":               {Terms: []string{"needle"}, After: middle},
		"sixteen words":       {Terms: strings.Fields("the quick brown fox jumps over the lazy dog the quick brown fox jumps over the")},
	} {
		b.Run("search/"+name, func(b *testing.B) {
			each(b, func(int) (int, error) {
				res, err := s.Search(ctx, user, &req)
				return len(res.Messages), err
			})
		})
	}
}

// each measures f one by one and reports the number of messages and the slowest.
func each(b *testing.B, f func(i int) (int, error)) {
	var times []time.Duration
	var n, i int
	for b.Loop() {
		start := time.Now()
		got, err := f(i)
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
		n, i = got, i+1
	}
	slices.Sort(times)
	b.ReportMetric(float64(n), "messages")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}

func benchStore(b *testing.B) *Store {
	s, err := Open(context.Background(), Config{Path: filepath.Join(b.TempDir(), "chat.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func benchRooms(b *testing.B, s *Store, n, users int) (rooms []chatproto.RoomID) {
	ctx := context.Background()
	for i := range n {
		name := fmt.Sprintf("room%d", i)
		id, err := s.Create(ctx, userName(0), &chatproto.CreateRoomReq{ID: idOf(1<<40 + uint64(i)), Kind: chatproto.RoomPublic, Name: name})
		if err != nil {
			b.Fatal(err)
		}
		rooms = append(rooms, id)
		for u := 1; u < users; u++ {
			if _, err := s.Join(ctx, userName(u), &chatproto.JoinRoomReq{ID: idOf(1<<40 + uint64(i)), Name: name}); err != nil {
				b.Fatal(err)
			}
		}
	}
	return rooms
}

// fill says a million messages, as many senders would.
func fill(b *testing.B, s *Store, rooms []chatproto.RoomID, users int) {
	start := time.Now()
	for n := 0; n < million; {
		var list []*change
		for range maxBatch {
			room := rooms[0]
			if n%2 == 1 {
				room = rooms[n/2%len(rooms)]
			}
			user, req := userName(n%users), sayReq(uint64(n)+1, benchText(uint64(n)))
			list = append(list, &change{run: func(b *batch) error {
				r := b.s.own.rooms[room].clone()
				b.append(r, chatproto.Message{ID: req.ID, Kind: req.Kind, From: user, Body: req.Body}, new(Change))
				b.put(r)
				return nil
			}})
			n++
		}
		done := make(chan struct{})
		lead := &change{done: done, run: func(b *batch) error {
			for _, c := range list {
				if err := c.run(b); err != nil {
					return err
				}
			}
			return nil
		}}
		if err := s.queue.add(lead); err != nil {
			b.Fatal(err)
		}
		if <-done; lead.err != nil {
			b.Fatal(lead.err)
		}
	}
	b.Logf("%d messages in %v", million, time.Since(start).Round(time.Second))
}

func benchText(n uint64) string {
	parity := "even"
	if n%2 == 1 {
		parity = "odd"
	}
	text := fmt.Sprintf("the quick brown fox jumps over the lazy dog number %d %s w%d w%d", n, parity, n%977, n%7919)
	if n%50_000 == 4711 {
		text += " needle in a haystack"
	}
	return text
}

func userName(i int) string { return fmt.Sprintf("user%d", i) }

func idOf(n uint64) (id chatproto.ID) {
	binary.BigEndian.PutUint64(id[:], n*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func sayReq(id uint64, text string) *chatproto.SayReq {
	return &chatproto.SayReq{ID: idOf(id), Kind: chatproto.KindText, Sent: 1, Body: []byte(text)}
}
