package main

// idle measures the daemon's memory for sessions with a listener that nothing
// happens to: the growth from a few to many, after pings have passed.
func (s *site) idle() error {
	n := s.o.listeners / 4 * 4
	few, many := names("few", 8), names("idle", n)
	if err := s.serve(few, many); err != nil {
		return err
	}
	if _, err := s.room("hall", few[:1], few[1:]); err != nil {
		return err
	}
	s.step("%d sessions", len(few))
	before, err := s.memory()
	if err != nil {
		return err
	}
	s.step("%d sessions", n)
	var attached []*child
	for i := range 4 {
		c, err := s.start(many[i*n/4 : (i+1)*n/4])
		if err != nil {
			return err
		}
		attached = append(attached, c)
	}
	loggedIn, err := s.memory()
	if err != nil {
		return err
	}
	if err := each(attached, func(_ int, c *child) error { return c.ask("attach", none{}, nil) }); err != nil {
		return err
	}
	after, err := s.memory()
	if err != nil {
		return err
	}
	s.reportMemory("session without chat", loggedIn.minus(before), n)
	s.reportMemory("attached listener", after.minus(before), n)
	if s.o.profile != "" {
		return s.daemon.ask("heap", s.o.profile+"idle", nil)
	}
	return nil
}

func (s *site) reportMemory(what string, m memory, n int) {
	each := func(bytes uint64) float64 { return float64(int64(bytes)) / float64(n) / 1024 }
	s.rep.add(s.part, what+", heap", each(m.Heap), "KiB")
	s.rep.add(s.part, what+", stacks", each(m.Stack), "KiB")
	s.rep.add(s.part, what+", goroutines", float64(m.Goroutines)/float64(n), "")
	s.rep.atMost(s.part, what+", heap and stacks", each(m.Heap+m.Stack), 64, "KiB")
	s.rep.add(s.part, what+", resident", each(m.RSS), "KiB")
}
