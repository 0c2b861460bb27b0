package mount

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/rpycfs/rpycfs/fsproto"
)

// storeWorld is a file at a daemon, and a store through which it is read. Leases are
// numbers that rise; those below void do not hold.
type storeWorld struct {
	s     *store
	file  []byte
	lease uint64
	void  uint64
	calls int
}

func newStoreWorld() *storeWorld {
	w := &storeWorld{lease: 1}
	w.s = newStore(func(_ fsproto.Node, lease uint64) bool { return lease != 0 && lease >= w.void })
	return w
}

// begin asks for a part of the file; end gets it to the store and to the caller.
func (w *storeWorld) begin(off uint64, size int) (got []byte, here bool, end func() []byte) {
	buf := make([]byte, size)
	n, here, want := w.s.read(9, off, buf)
	if here {
		return buf[:n], true, nil
	}
	w.calls++
	data := bytes.Clone(w.at(want.from, want.size))
	lease := w.lease
	w.lease++
	return nil, false, func() []byte {
		if want.f != nil {
			w.s.fill(want, data, lease)
		}
		skip := min(int(off-want.from), len(data))
		return data[skip:min(skip+size, len(data))]
	}
}

func (w *storeWorld) at(off uint64, size int) []byte {
	from := min(off, uint64(len(w.file)))
	return w.file[from:min(from+uint64(size), uint64(len(w.file)))]
}

func (w *storeWorld) read(off uint64, size int) []byte {
	got, here, end := w.begin(off, size)
	if !here {
		return end()
	}
	return got
}

// change makes a change of our own, or of somebody else, which voids leases.
func (w *storeWorld) change(off uint64, data []byte) {
	if end := off + uint64(len(data)); end > uint64(len(w.file)) {
		w.file = append(w.file, make([]byte, end-uint64(len(w.file)))...)
	}
	copy(w.file[off:], data)
}

func (w *storeWorld) write(off uint64, data []byte) {
	done := w.s.changing(9)
	w.change(off, data)
	done(written{n: uint32(len(data)), at: off, lease: w.lease}, data)
}

func (w *storeWorld) recall() {
	w.void = w.lease
	w.lease++
	w.void++
}

// TestStoreProperty: what is read through the store is what the file held at a moment
// while the read was under way, whatever is written, cut off and recalled meanwhile.
func TestStoreProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newStoreWorld()
		type read struct {
			off  uint64
			size int
			end  func() []byte
			ever [][]byte // what it may show
		}
		var under []*read
		note := func() {
			for _, r := range under {
				r.ever = append(r.ever, bytes.Clone(w.at(r.off, r.size)))
			}
		}
		off := rapid.Custom(func(t *rapid.T) uint64 {
			return rapid.SampledFrom([]uint64{0, 1, 4095, 4096, 5000, 8192, 70000}).Draw(t, "off")
		})
		size := rapid.SampledFrom([]int{1, 100, 4096, 5000, 40000, maxAhead + 1})
		n := byte(0)
		data := func() []byte {
			n++
			return bytes.Repeat([]byte{n}, size.Draw(t, "size"))
		}
		t.Repeat(map[string]func(*rapid.T){
			"read": func(t *rapid.T) {
				o, s := off.Draw(t, "off"), size.Draw(t, "size")
				if got, want := w.read(o, s), w.at(o, s); !bytes.Equal(got, want) {
					t.Fatalf("read %d bytes at %d: got %d bytes, want %d, or others", s, o, len(got), len(want))
				}
			},
			"begin": func(t *rapid.T) {
				o, s := off.Draw(t, "off"), size.Draw(t, "size")
				if _, here, end := w.begin(o, s); !here {
					under = append(under, &read{o, s, end, [][]byte{bytes.Clone(w.at(o, s))}})
				}
			},
			"end": func(t *rapid.T) {
				if len(under) == 0 {
					return
				}
				i := rapid.IntRange(0, len(under)-1).Draw(t, "which")
				r := under[i]
				under = append(under[:i], under[i+1:]...)
				got := r.end()
				for _, want := range r.ever {
					if bytes.Equal(got, want) {
						return
					}
				}
				t.Fatalf("a read of %d bytes at %d got what never was", r.size, r.off)
			},
			"write": func(t *rapid.T) { w.write(off.Draw(t, "off"), data()); note() },
			"writes at once": func(t *rapid.T) {
				a, b := off.Draw(t, "off"), off.Draw(t, "off")
				x, y := data(), data()
				one, two := w.s.changing(9), w.s.changing(9)
				w.change(b, y)
				w.change(a, x)
				one(written{n: uint32(len(x)), at: a, lease: w.lease}, x)
				if got, want := w.read(b, len(y)), w.at(b, len(y)); !bytes.Equal(got, want) {
					t.Fatal("read something old while a write is under way")
				}
				two(written{n: uint32(len(y)), at: b, lease: w.lease}, y)
				note()
			},
			"cut": func(t *rapid.T) {
				done := w.s.changing(9)
				w.file = w.file[:min(uint64(len(w.file)), off.Draw(t, "to"))]
				done(written{}, nil)
				note()
			},
			"somebody else": func(t *rapid.T) {
				w.recall()
				w.change(off.Draw(t, "off"), data())
				note()
			},
			"somebody else cuts": func(t *rapid.T) {
				w.recall()
				w.file = w.file[:min(uint64(len(w.file)), off.Draw(t, "to"))]
				note()
			},
			"drop":   func(*rapid.T) { w.s.drop(9) },
			"forget": func(*rapid.T) { w.s.forget(9) },
			"shrink": func(t *rapid.T) {
				w.s.mu.Lock()
				w.s.shrink(rapid.IntRange(0, 4).Draw(t, "pages") * pageSize)
				w.s.mu.Unlock()
			},
		})
	})
}

// TestStoreCalls: reads that follow each other are few at the daemon, and what was
// written from here is read without it.
func TestStoreCalls(t *testing.T) {
	w := newStoreWorld()
	w.file = bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for off := 0; off < len(w.file); off += 1000 {
		if !bytes.Equal(w.read(uint64(off), 1000), w.at(uint64(off), 1000)) {
			t.Fatalf("wrong at %d", off)
		}
	}
	if w.calls > 10 {
		t.Errorf("%d calls for 1 MiB in small reads", w.calls)
	}
	w.calls = 0
	w.read(500_000, 100)
	w.write(500_050, []byte("new"))
	if got := w.read(500_048, 7); w.calls != 0 || !bytes.Equal(got, w.at(500_048, 7)) {
		t.Errorf("read %q of what was just written, by %d calls", got, w.calls)
	}
	w.recall()
	if w.read(500_048, 7); w.calls != 1 {
		t.Errorf("%d calls after a recall", w.calls)
	}

	made := newStoreWorld()
	for off := 0; off < 100_000; off += 1000 {
		made.write(uint64(off), bytes.Repeat([]byte{byte(off / 1000)}, 1000))
	}
	for off := 0; off < 100_000; off += 1000 {
		if !bytes.Equal(made.read(uint64(off), 1000), made.at(uint64(off), 1000)) {
			t.Fatalf("wrong at %d", off)
		}
	}
	if made.calls != 0 {
		t.Errorf("%d calls for what was written from here", made.calls)
	}
}

// TestStoreBounded: the store takes up no more than it may, and nothing when its files
// are forgotten.
func TestStoreBounded(t *testing.T) {
	w := newStoreWorld()
	w.file = make([]byte, 2*maxStored)
	for off := 0; off < len(w.file); off += maxAhead {
		w.read(uint64(off), maxAhead)
	}
	if got := w.s.size(); got > maxStored || got < maxStored/2 {
		t.Errorf("%d bytes, %d are allowed", got, maxStored)
	}
	w.s.forget(9)
	if got := w.s.size(); got != 0 || len(w.s.files) != 0 {
		t.Errorf("%d bytes of %d files that are forgotten", got, len(w.s.files))
	}
}
