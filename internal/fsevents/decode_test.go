package fsevents

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// fid is a piece of information with a handle and, if not empty, a name.
func fid(kind byte, handle, name string) []byte {
	b := []byte{kind, 0, 0, 0}
	b = append(b, make([]byte, 8)...)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(handle)))
	b = binary.NativeEndian.AppendUint32(b, 1) // type
	b = append(b, handle...)
	if name != "" {
		b = append(b, name...)
		b = append(b, make([]byte, 4-len(b)%4)...)
	}
	binary.NativeEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func fanEvent(mask uint64, pid int32, infos ...[]byte) []byte {
	b := make([]byte, fanMetadata)
	info := bytes.Join(infos, nil)
	binary.NativeEndian.PutUint32(b, uint32(len(b)+len(info)))
	b[4] = unix.FANOTIFY_METADATA_VERSION
	binary.NativeEndian.PutUint16(b[6:], fanMetadata)
	binary.NativeEndian.PutUint64(b[8:], mask)
	binary.NativeEndian.PutUint32(b[20:], uint32(pid))
	return append(b, info...)
}

func inEvent(wd int32, mask, cookie uint32, name string) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
	b = binary.NativeEndian.AppendUint32(b, mask)
	b = binary.NativeEndian.AppendUint32(b, cookie)
	padded := []byte(name)
	if name != "" {
		padded = append(padded, make([]byte, 16-len(name)%16)...)
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(len(padded)))
	return append(b, padded...)
}

// handle is the Object of a handle made by fid.
func handle(s string) Object { return Object(binary.NativeEndian.AppendUint32(nil, 1)) + Object(s) }

const ours = 1000 // the process's number in these tests

func newFan(watched ...string) *fanotify {
	f := &fanotify{pid: ours, whole: true, watched: map[Object]fanWatch{}}
	for _, h := range watched {
		f.watched[handle(h)] = fanWatch{object: handle(h)}
	}
	return f
}

func newIn(wds ...int32) *inotify {
	i := &inotify{watched: map[int32]inWatch{}}
	for _, wd := range wds {
		i.watched[wd] = inWatch{object: Object("w" + string('0'+wd)), isDir: true}
	}
	return i
}

func fanSample() []byte {
	const dfid, target, from, to = unix.FAN_EVENT_INFO_TYPE_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_FID,
		unix.FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME
	return bytes.Join([][]byte{
		fanEvent(unix.FAN_CREATE, 7, fid(dfid, "dir", "a"), fid(target, "a's", "")),
		fanEvent(unix.FAN_MODIFY, 7, fid(dfid, "dir", "a"), fid(target, "a's", "")),
		fanEvent(unix.FAN_MODIFY, 7, fid(dfid, "unknown", "a"), fid(target, "x's", "")),
		fanEvent(unix.FAN_MODIFY, ours, fid(dfid, "dir", "own"), fid(target, "o's", "")),
		fanEvent(unix.FAN_RENAME|unix.FAN_ONDIR, 7, fid(from, "dir", "b"), fid(to, "unknown", "c"), fid(target, "b's", "")),
		fanEvent(unix.FAN_RENAME, 7, fid(from, "unknown", "b"), fid(to, "dir", "a"), fid(target, "c's", ""), fid(99, "?", "")),
		fanEvent(unix.FAN_MODIFY, 7, fid(dfid, "dir", "a"), fid(target, "a's", "")),
		fanEvent(unix.FAN_ATTRIB|unix.FAN_ONDIR, 7, fid(dfid, "dir", ".")),
		fanEvent(unix.FAN_ATTRIB, 7, fid(target, "file", "")),
		fanEvent(unix.FAN_DELETE_SELF|unix.FAN_ATTRIB, ours, fid(target, "file", "")),
		fanEvent(unix.FAN_ATTRIB, 7, fid(target, "file", "")), // no longer watched
		fanEvent(unix.FAN_Q_OVERFLOW, 0),
		fanEvent(unix.FAN_Q_OVERFLOW, 0),
	}, nil)
}

func TestFanotifyRecords(t *testing.T) {
	b := newBatch()
	f := newFan("dir", "file")
	if more, err := f.decode(fanSample(), b); more || err != nil {
		t.Fatal(more, err)
	}
	want := []Event{
		{Kind: Create | Modify, Dir: handle("dir"), Name: "a", Target: handle("a's")},
		{Kind: Rename, Dir: handle("dir"), Name: "b", Target: handle("b's"), IsDir: true},
		{Kind: Rename, NewDir: handle("dir"), NewName: "a", Target: handle("c's")},
		{Kind: Modify, Dir: handle("dir"), Name: "a", Target: handle("a's")}, // after the name went to another
		{Kind: Attrib, Dir: handle("dir"), IsDir: true},
		{Kind: Attrib, Target: handle("file")},
		{Kind: DeleteSelf, Target: handle("file")},
		{Kind: Overflow},
	}
	if !slices.Equal(b.events, want) {
		t.Errorf("events\n%v, want\n%v", b.events, want)
	}
	if len(f.watched) != 1 {
		t.Errorf("%d watched", len(f.watched))
	}
}

func inSample() []byte {
	return bytes.Join([][]byte{
		inEvent(1, unix.IN_CREATE, 0, "a"),
		inEvent(1, unix.IN_MODIFY, 0, "a"),
		inEvent(1, unix.IN_MOVED_FROM|unix.IN_ISDIR, 5, "from"),
		inEvent(1, unix.IN_CREATE, 0, "from"), // made anew by another processor
		inEvent(2, unix.IN_MOVED_TO|unix.IN_ISDIR, 5, "to"),
		inEvent(2, unix.IN_MOVED_TO, 6, "into"),
		inEvent(9, unix.IN_MODIFY, 0, "unknown"),
		inEvent(2, unix.IN_ATTRIB|unix.IN_ISDIR, 0, ""),
		inEvent(2, unix.IN_DELETE_SELF, 0, ""),
		inEvent(2, unix.IN_IGNORED, 0, ""),
		inEvent(3, unix.IN_UNMOUNT, 0, ""),
		inEvent(3, unix.IN_IGNORED, 0, ""),
		inEvent(-1, unix.IN_Q_OVERFLOW, 0, ""),
		inEvent(1, unix.IN_MOVED_FROM, 8, "out"),
	}, nil)
}

func TestInotifyRecords(t *testing.T) {
	b := newBatch()
	i := newIn(1, 2, 3)
	if more, err := i.decode(inSample(), b); !more || err != nil {
		t.Fatal(more, err)
	}
	want := []Event{
		{Kind: Create | Modify, Dir: "w1", Name: "a"},
		{Kind: Rename, Dir: "w1", Name: "from", NewDir: "w2", NewName: "to", IsDir: true},
		{Kind: Create, Dir: "w1", Name: "from"},
		{Kind: Rename, NewDir: "w2", NewName: "into"},
		{Kind: Attrib, Dir: "w2", IsDir: true},
		{Kind: DeleteSelf, Dir: "w2", IsDir: true},
		{Kind: DeleteSelf, Dir: "w3", IsDir: true},
		{Kind: Overflow},
		{Kind: Rename, Dir: "w1", Name: "out"},
	}
	if !slices.Equal(b.events, want) {
		t.Errorf("events\n%v, want\n%v", b.events, want)
	}
	if more, err := i.decode(inEvent(1, unix.IN_MOVED_TO, 8, "back"), b); more || err != nil {
		t.Fatal(more, err)
	}
	if last := b.events[len(b.events)-1]; last != (Event{Kind: Rename, Dir: "w1", Name: "out", NewDir: "w1", NewName: "back"}) {
		t.Errorf("joined to %v", last)
	}
	if len(i.watched) != 1 {
		t.Errorf("%d watched", len(i.watched))
	}
}

// TestNoAllocations: what is not watched, what is our own, and what tells nothing
// new.
func TestNoAllocations(t *testing.T) {
	const dfid, target = unix.FAN_EVENT_INFO_TYPE_DFID_NAME, unix.FAN_EVENT_INFO_TYPE_FID
	f, b := newFan("dir"), newBatch()
	records := func(dir string, pid int32) []byte {
		return fanEvent(unix.FAN_MODIFY, pid, fid(dfid, dir, "a long name of a file"), fid(target, "file", ""))
	}
	if _, err := f.decode(records("dir", 7), b); err != nil {
		t.Fatal(err)
	}
	all := slices.Concat(records("unknown", 7), records("dir", ours), records("dir", 7))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := f.decode(all, b); err != nil {
			t.Error(err)
		}
	}); n > 0 || len(b.events) != 1 {
		t.Errorf("%v allocations, %d events", n, len(b.events))
	}
}

// TestTruncated: every record that is cut short is refused, none is read beyond.
func TestTruncated(t *testing.T) {
	refused := func(decode func([]byte, *batch) (bool, error), sample []byte, whole map[int]bool) {
		t.Helper()
		for n := range len(sample) {
			_, err := decode(slices.Clip(slices.Clone(sample[:n])), newBatch())
			if whole[n] != (err == nil) || err != nil && !errors.Is(err, errRecord) {
				t.Errorf("%d of %d bytes: %v", n, len(sample), err)
			}
		}
	}
	ends := map[int]bool{0: true}
	for at := 0; at < len(fanSample()); ends[at] = true {
		_, n, err := parseFanotify(fanSample()[at:])
		must(t, err)
		at += n
	}
	refused(newFan("dir", "file").decode, fanSample(), ends)
	ends = map[int]bool{0: true}
	for at := 0; at < len(inSample()); ends[at] = true {
		_, n, err := parseInotify(inSample()[at:])
		must(t, err)
		at += n
	}
	refused(newIn(1, 2, 3).decode, inSample(), ends)
}

// TestMalformed: lengths that do not fit.
func TestMalformed(t *testing.T) {
	good := fanEvent(unix.FAN_CREATE, 7, fid(unix.FAN_EVENT_INFO_TYPE_DFID_NAME, "dir", "a"))
	for what, spoil := range map[string]func(b []byte){
		"another version":        func(b []byte) { b[4]++ },
		"length below metadata":  func(b []byte) { binary.NativeEndian.PutUint32(b, 20) },
		"length zero":            func(b []byte) { binary.NativeEndian.PutUint32(b, 0) },
		"length beyond":          func(b []byte) { binary.NativeEndian.PutUint32(b, 1<<31) },
		"metadata beyond length": func(b []byte) { binary.NativeEndian.PutUint16(b[6:], 1<<15) },
		"metadata too short":     func(b []byte) { binary.NativeEndian.PutUint16(b[6:], 8) },
		"information of zero":    func(b []byte) { binary.NativeEndian.PutUint16(b[fanMetadata+2:], 0) },
		"information beyond":     func(b []byte) { binary.NativeEndian.PutUint16(b[fanMetadata+2:], 1<<15) },
		"information too short":  func(b []byte) { binary.NativeEndian.PutUint16(b[fanMetadata+2:], fanInfo) },
		"handle beyond":          func(b []byte) { binary.NativeEndian.PutUint32(b[fanMetadata+fanFid:], 100) },
		"handle too large":       func(b []byte) { binary.NativeEndian.PutUint32(b[fanMetadata+fanFid:], 1<<32-1) },
	} {
		b := slices.Clone(good)
		spoil(b)
		if _, err := newFan("dir").decode(b, newBatch()); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
	b := inEvent(1, unix.IN_CREATE, 0, "a")
	binary.NativeEndian.PutUint32(b[12:], 1<<32-1)
	if _, err := newIn(1).decode(b, newBatch()); !errors.Is(err, errRecord) {
		t.Errorf("name beyond: %v", err)
	}
}

// TestNotUnderstood: records that are not understood count as an overflow.
func TestNotUnderstood(t *testing.T) {
	r, out, err := os.Pipe()
	must(t, err)
	got := make(chan []Event, 1)
	w := &Watcher{
		cfg: Config{Handle: func(events []Event) { got <- slices.Clone(events) }}, log: slog.New(slog.DiscardHandler),
		source: newFan("dir"), file: r, done: make(chan struct{}), method: Fanotify,
	}
	go w.run()
	_, err = out.Write(append(fanEvent(unix.FAN_CREATE, 7, fid(unix.FAN_EVENT_INFO_TYPE_DFID_NAME, "dir", "a")), "rubbish"...))
	must(t, err)
	if events := <-got; len(events) != 2 || events[0].Kind != Create || events[1].Kind != Overflow {
		t.Errorf("events %v", events)
	}
	must(t, out.Close()) // the end, which the kernel never makes
	if events := <-got; len(events) != 1 || events[0].Kind != Overflow {
		t.Errorf("events %v", events)
	}
	<-w.done
	if m, _ := w.Method(); m != None {
		t.Errorf("method %v", m)
	}
	must(t, w.Close())
}

func FuzzFanotify(f *testing.F) {
	f.Add(fanSample())
	f.Add(fanEvent(unix.FAN_CREATE, 7, fid(unix.FAN_EVENT_INFO_TYPE_DFID_NAME, "dir", "a")))
	f.Fuzz(func(t *testing.T, records []byte) {
		b := newBatch()
		_, err := newFan("dir", "file").decode(records, b)
		check(t, len(records)/fanMetadata, b, err)
	})
}

func FuzzInotify(f *testing.F) {
	f.Add(inSample())
	f.Fuzz(func(t *testing.T, records []byte) {
		b := newBatch()
		_, err := newIn(1, 2, 3).decode(records, b)
		check(t, len(records)/inHead, b, err)
	})
}

// check checks what holds of any records: no more events than there is room for,
// each about something watched.
func check(t *testing.T, most int, b *batch, err error) {
	if err != nil && !errors.Is(err, errRecord) {
		t.Error(err)
	}
	if len(b.events) > most {
		t.Errorf("%d events, at most %d", len(b.events), most)
	}
	for _, e := range b.events {
		if e.Kind == 0 || e.Kind != Overflow && e.Dir == "" && e.NewDir == "" && e.Target == "" {
			t.Errorf("event %v", e)
		}
	}
}
