package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

// site is the working directory with the links, the loads and the peers.
type site struct {
	dir     string
	links   []*link
	loads   []*loads // the whole, and a part
	peers   []peer
	streams []*stream
	closed  sync.Once

	mu    sync.Mutex
	over  bool // no more cells
	cells int
	cell  *cell // the last one
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// setUp makes the directories, the links, what is exported, and the peers.
func (s *site) setUp(o *options) error {
	for _, name := range []string{"tree", "mnt", "away", "bin"} {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			return err
		}
	}
	if o.bin == "" {
		o.bin = s.path("bin")
		if err := peers.Build(o.bin); err != nil {
			return err
		}
	}
	s.peers = []peer{
		local{}, loopbackFS{},
		&sshfs{peerSSHFS, nil}, &sshfs{peerTuned, tunedOptions}, rclone{},
		&rpycfs{peerRpycfs, o.bin},
	}
	if o.old != "" {
		s.peers = append(s.peers, &rpycfs{peerOld, o.old})
	}
	config, err := newTLS()
	if err != nil {
		return err
	}
	s.streams = []*stream{{peerTCP, nil}, {peerTLS, config}}
	for text := range strings.SplitSeq(o.links, ";") {
		k, err := parseLink(text)
		if err == nil {
			s.links = append(s.links, k)
			err = k.open()
		}
		if err != nil {
			return err
		}
	}
	return s.prepare(o)
}

// prepare makes what the workloads need.
func (s *site) prepare(o *options) error {
	if o.source == "" {
		root, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("go env GOROOT: %w", err)
		}
		o.source = filepath.Join(strings.TrimSpace(string(root)), "src")
	}
	o.source = filepath.Clean(o.source)
	full := o.sizes
	full.bytes = o.mib << 20
	part := o.sizes.part(o.part)
	part.bytes = o.farMiB << 20
	for _, l := range []*loads{{sizes: full, name: "full"}, {sizes: part, name: "part"}} {
		l.backing, l.away = s.path("tree"), filepath.Join(s.path("away"), l.name)
		if err := l.prepare(); err != nil {
			return err
		}
		s.loads = append(s.loads, l)
	}
	return nil
}

// row is a workload over one link, with what is done again on the same mount.
type row struct {
	link, name string
	cells      []*rowCell
}

// rowCell is one peer in a row. A figure of a second phase follows that of the
// first.
type rowCell struct {
	peer    string
	figures []*Figure
	run     func() ([]Sample, error)
}

func (r *row) figures() []*Figure {
	var all []*Figure
	for _, c := range r.cells {
		all = append(all, c.figures...)
	}
	return all
}

// measure adds a sample to each figure; a cell that has failed stays out.
func (c *rowCell) measure() {
	if c.figures[0].Error != "" {
		return
	}
	samples, err := c.run()
	for i, f := range c.figures {
		if err != nil {
			f.Error = err.Error()
		} else {
			f.Rounds = append(f.Rounds, samples[i])
		}
	}
}

// last tells what the last measurement has brought.
func (c *rowCell) last() string {
	var all []string
	for _, f := range c.figures {
		if f.Error != "" {
			return f.Error
		}
		all = append(all, fmt.Sprintf("%.3f %s", f.Rounds[len(f.Rounds)-1].Figure, f.Unit))
	}
	return strings.Join(all, ", ")
}

// rows returns what is to be measured.
func (s *site) rows(o *options) []*row {
	full, part := s.loads[0], s.loads[1]
	all, parts := full.all(full), part.all(full)
	var rows []*row
	for _, k := range s.links {
		for i := range all {
			r := &row{link: k.name, name: all[i].name}
			for _, p := range s.peers {
				if k.emulated() && p.name() == peerLoopback {
					continue // no link has a part in it
				}
				l := all[i]
				if l.fits(k, p.name(), &o.scaled) || k.emulated() && l.byBytes() {
					l = parts[i]
				}
				if l.fits(k, p.name(), &o.only) {
					r.cells = append(r.cells, s.rowCell(k, p, l, o.limit))
				}
			}
			for _, t := range s.streams {
				l := all[i]
				if k.emulated() {
					l = parts[i]
				}
				if l.bulk != 0 && l.fits(k, t.label, &o.only) {
					r.cells = append(r.cells, t.cell(k, l))
				}
			}
			if len(r.cells) > 0 {
				rows = append(rows, r)
			}
		}
	}
	return rows
}

func (s *site) rowCell(k *link, p peer, l load, limit time.Duration) *rowCell {
	c := &rowCell{peer: p.name(), run: func() ([]Sample, error) { return s.measure(k, p, l, limit) }}
	for _, name := range []string{l.name, l.again} {
		if name != "" {
			c.figures = append(c.figures, &Figure{Link: k.name, Row: name, Peer: p.name(), Unit: l.unit, Times: l.whole})
		}
	}
	return c
}

func (s *site) close() {
	s.closed.Do(func() {
		s.mu.Lock()
		s.over = true
		s.mu.Unlock()
		if s.cell != nil {
			s.cell.close() // who waits in a mount gets an error
		}
		for peers.IsMount(s.path("mnt")) && syscall.Unmount(s.path("mnt"), syscall.MNT_DETACH) == nil {
		}
		for _, k := range s.links {
			k.close()
		}
		os.RemoveAll(s.dir)
	})
}
