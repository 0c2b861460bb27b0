package main

import "time"

// textSize is that of an ordinary message, in bytes.
const textSize = 100

// fanout measures how messages in one room reach many listeners: at a moderate
// rate, and in bursts as fast as they are acknowledged. A burst fits a feed's
// queue, so that no feed needs to be cut.
func (s *site) fanout() error {
	n := s.o.listeners / 4 * 4
	speakers, listeners := names("speaker", 8), names("listener", n)
	if err := s.serve(speakers, listeners); err != nil {
		return err
	}
	s.step("%d listeners", n)
	all, err := s.room("hall", speakers[:1], speakers[1:],
		listeners[:n/4], listeners[n/4:n/2], listeners[n/2:3*n/4], listeners[3*n/4:])
	if err != nil {
		return err
	}
	speaker, ears := all[1], all[2:]
	// The first message has everybody catch up with who joined after him.
	if err := speaker.ask("say", sayArgs{N: 1, Size: textSize}, nil); err != nil {
		return err
	}
	if _, err := awaitAll(ears, 1); err != nil {
		return err
	}
	return s.profile(s.part, func() error {
		if err := s.moderate(speaker, ears); err != nil {
			return err
		}
		return s.bursts(speaker, ears, n)
	})
}

func (s *site) moderate(speaker *child, ears []*child) error {
	s.step("%d messages per second", s.o.rate)
	count := s.o.rate * int(s.o.moderate/time.Second)
	got, err := s.sayAndHear(speaker, ears, sayArgs{N: count, For: s.o.moderate, Size: textSize})
	if err != nil {
		return err
	}
	s.rep.add(s.part, "moderate rate", float64(s.o.rate), "messages/s said")
	s.rep.add(s.part, "moderate rate, delivered", float64(got.Total)/s.o.moderate.Seconds(), "messages/s")
	s.rep.delays(s.part, "moderate rate, delay", got.Delays)
	return nil
}

func (s *site) bursts(speaker *child, ears []*child, n int) error {
	sum, cuts, seconds := delays{}, uint64(0), 0.0
	for i := range s.o.bursts {
		s.step("burst %d of %d", i+1, s.o.bursts)
		start := time.Now()
		got, err := s.sayAndHear(speaker, ears, sayArgs{N: s.o.messages, Size: textSize, Callers: 8})
		if err != nil {
			return err
		}
		seconds += time.Since(start).Seconds()
		sum.add(got.Delays)
		cuts += got.Cuts
	}
	said := float64(s.o.bursts * s.o.messages)
	s.rep.add(s.part, "bursts, said", said/seconds, "messages/s said")
	s.rep.add(s.part, "bursts, delivered", said*float64(n)/seconds, "messages/s")
	s.rep.delays(s.part, "bursts, delay", sum)
	s.rep.add(s.part, "bursts, feeds cut", float64(cuts), "")
	return nil
}

// sayAndHear says and waits until all of it has arrived everywhere.
func (s *site) sayAndHear(speaker *child, ears []*child, a sayArgs) (arrivals, error) {
	if err := resetAll(ears); err != nil {
		return arrivals{}, err
	}
	var done said
	if err := speaker.ask("say", a, &done); err != nil {
		return arrivals{}, err
	}
	return awaitAll(ears, done.N)
}
