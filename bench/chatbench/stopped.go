package main

import (
	"fmt"
	"syscall"
	"time"
)

// stopped measures how the others fare while one of ten listeners is stopped,
// and whether it has everything afterwards.
func (s *site) stopped() error {
	const largeSize = 8 << 10
	users := names("ear", 10)
	var groups [][]string
	for i := range users {
		groups = append(groups, users[i:i+1])
	}
	speaker := names("speaker", 1)
	if err := s.serve(users, speaker); err != nil {
		return err
	}
	all, err := s.room("hall", append([][]string{speaker}, groups...)...)
	if err != nil {
		return err
	}
	mouth, ears, victim := all[0], all[1:10], all[10]
	warm := sayArgs{N: 500, Size: largeSize}
	s.step("all listen")
	quiet, err := s.sayAndHear(mouth, all[1:], warm)
	if err != nil {
		return err
	}
	before, err := s.memory()
	if err != nil {
		return err
	}
	s.step("one of ten is stopped")
	if err := resetAll(all[1:]); err != nil {
		return err
	}
	if err := victim.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	defer victim.cmd.Process.Signal(syscall.SIGCONT)
	var spoken said
	start := time.Now()
	peak, err := s.peakWhile(func() error {
		if err := mouth.ask("say", sayArgs{N: s.o.large, Size: largeSize}, &spoken); err != nil {
			return err
		}
		_, err := awaitAll(ears, s.o.large)
		return err
	})
	if err != nil {
		return err
	}
	took := time.Since(start)
	got, err := awaitAll(ears, s.o.large)
	if err != nil {
		return err
	}
	if err := victim.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return err
	}
	s.step("it goes on")
	begin := time.Now()
	late, err := awaitAll([]*child{victim}, s.o.large)
	if err != nil {
		return err
	}
	if late.Total != uint64(s.o.large) || got.Total != 9*uint64(s.o.large) {
		return fmt.Errorf("%d messages at the stopped one, %d at the others", late.Total, got.Total)
	}
	s.rep.delays(s.part, "delay, all listening", quiet.Delays)
	s.rep.add(s.part, "messages of 8 KiB", float64(s.o.large)/took.Seconds(), "messages/s")
	s.rep.add(s.part, "delay of the other nine, p50", got.Delays.quantile(.5), "ms")
	s.rep.atMost(s.part, "delay of the other nine, p99", got.Delays.quantile(.99), 50, "ms")
	s.rep.add(s.part, "others' feeds cut", float64(got.Cuts), "")
	s.rep.atMost(s.part, "growth of the daemon's resident memory", float64(int64(peak-before.RSS))/(1<<20), 64, "MiB")
	s.rep.add(s.part, "until the stopped one has all, in order", time.Since(begin).Seconds(), "s")
	s.rep.add(s.part, "of these from the history", float64(late.Late), "messages")
	return nil
}

// peakWhile returns the daemon's largest resident memory while f runs, in bytes.
func (s *site) peakWhile(f func() error) (peak uint64, err error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	for {
		select {
		case err := <-done:
			return peak, err
		case <-time.After(50 * time.Millisecond):
			var now uint64
			if err := s.daemon.ask("resident", none{}, &now); err != nil {
				return peak, err
			}
			peak = max(peak, now)
		}
	}
}
