package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/internal/status"
	"github.com/rpycfs/rpycfs/mount"
)

func TestStatusOfNothing(t *testing.T) {
	for _, args := range [][]string{{"status", t.TempDir()}, {"status", "--json", "/"}, {"status", "nohost:/"}} {
		code, stdout, stderr := rpycfs("", args...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, "no rpycfs mount there") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if code, _, _ := rpycfs("", "status", "a", "b"); code != exitUsage {
		t.Errorf("two mounts: %d", code)
	}
}

func statusDocument() *status.Document {
	now := time.Now()
	return &status.Document{
		Version: status.Version, MountPoint: "/mnt/a b", Source: "host:/x", Device: "0:53", Server: "host:19912", User: "alice",
		PID: 4711, Program: "0.1.0", Mounted: now.Add(-time.Hour),
		Session: status.Session{State: status.Connected, Since: now.Add(-time.Minute), RTT: 1234567, Heard: now,
			Compression: status.Compression{
				Mode: "auto", Receiving: "on: data arrives at 6.2 MB/s", Sending: "off: the daemon has not asked for it",
				Received: 5 << 20, ReceivedWire: 1 << 20, SentPlain: 3,
			}},
		Status: mount.Status{
			Timeo: 30, Waiting: []mount.WaitStatus{{Op: "lookup", Count: 2, Since: now.Add(-4 * time.Second), PID: 17}},
			Unwritten: &mount.UnwrittenStatus{Bytes: 4096, Error: "x", Last: now},
			Undecided: &mount.UndecidedStatus{Count: 2, Op: "rename", Last: now},
			RunAs:     "daemon", IDMap: "self", Events: "fanotify", Recalls: 12, BytesRead: 5 << 20, BytesWritten: 1023, OpenFiles: 3,
			Requests: map[string]mount.RequestStatus{"lookup": {Count: 100, Here: 40}, "flush": {Count: 7, Here: 7}},
			Calls:    map[string]mount.CallStatus{"lookup": {Count: 60, Errors: 2, InFlight: 1, Nanoseconds: 60e6}, "read": {InFlight: 2}},
			Served:   map[string]mount.ServedStatus{"lk_granted": {Count: 9}},
		},
	}
}

func TestStatusText(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		change func(*status.Document)
		want   []string
	}{
		"connected": {func(*status.Document) {}, []string{
			"/mnt/a b: host:/x as alice\n", "\n  connected to host:19912 since ", "(1m0s), round trip 1.23 ms\n",
			"\n  calls without an answer yet: 3 (lookup 1, read 2)\n", " process 4711, rpycfs 0.1.0; rights on the server: daemon, idmap: self\n",
			"\n  read 5.0 MiB, written 1023 bytes; open files 3,", "\n  calls of the server: lk_granted 9\n",
			"\n  changes on the server: fanotify, called back 12\n",
			"\n  compression: auto; receiving on: data arrives at 6.2 MB/s; sending off: the daemon has not asked for it; " +
				"received 5.0 MiB as 1.0 MiB; 3 messages were sent as they were\n",
			"\n  waiting: lookup 2 for 4s (process 17); hard: they wait until the server answers\n",
			"\n  NOT WRITTEN: 4.0 KiB, last at ",
			"\n  UNDECIDED: 2, last rename at ",
			"\n\nOPERATION         REQUESTS      HERE     CALLS  ERRORS       MEAN\n" +
				"lookup                 100        40        60       2    1.00 ms\n" +
				"flush                    7         7         0       0          -\n" +
				"read                     0         0         0       0          -\n",
		}},
		"soft": {func(d *status.Document) { d.Soft, d.Failing, d.Unwritten = true, true, nil }, []string{
			"\n  soft: the server has been silent for 30s, and what needs it fails at once\n",
			"; soft: they fail after 30s if the server is silent\n"}},
		"silent": {func(d *status.Document) { d.Session.Heard = now.Add(-20 * time.Second) }, []string{"ms, nothing heard for 20s\n"}},
		"away": {func(d *status.Document) {
			d.ReadOnly = true
			d.Session = status.Session{State: status.Reconnecting, Since: now, LastError: "refused", NextTry: now.Add(time.Minute)}
		}, []string{" as alice, read only\n", "\n  not connected to host:19912 since ", "(0s): refused; next attempt in "}},
		"over": {func(d *status.Document) { d.Session = status.Session{State: status.Over, LastError: "gone"} }, []string{
			"\n  the session with host:19912 is over", ": gone; unmount and mount again\n"}},
		"no events": {func(d *status.Document) { d.Events, d.EventsWhy, d.RecalledAll = "none", "nfs", 2 }, []string{
			"\n  changes on the server: none, called back 12 and 2 times for all (nfs)\n"}},
		"new": {func(d *status.Document) { d.Requests, d.Calls = nil, nil }, []string{"lk_granted 9\n"}},
	} {
		d := statusDocument()
		tt.change(d)
		text := statusText(d)
		for _, want := range tt.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", name, want, text)
			}
		}
	}
}

// TestStatusIsHarmless: whatever the server, or a process that is not ours, says,
// the terminal gets nothing to obey, and a line stays a line.
func TestStatusIsHarmless(t *testing.T) {
	d := statusDocument()
	lines := strings.Count(statusText(d), "\n")
	evil := "\x1b[2J\r\n\u202e\u009b31m\x7f"
	for _, s := range []*string{&d.MountPoint, &d.Source, &d.Server, &d.User, &d.Program, &d.RunAs, &d.IDMap, &d.Events, &d.EventsWhy, &d.Session.LastError} {
		*s = evil
	}
	d.Calls[evil] = mount.CallStatus{Count: 1<<64 - 1, InFlight: 1<<64 - 1, Nanoseconds: -1 << 63}
	d.Served[evil] = mount.ServedStatus{Count: 1}
	d.Session.Since = time.Time{}
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, asJSON := range []bool{false, true} {
		var out strings.Builder
		if err := (&statusOf{JSON: asJSON}).print(&out, &status.Answer{Document: *d, Raw: raw}, false); err != nil {
			t.Fatal(err)
		}
		want := lines + 2 // a call and an answer more
		if asJSON {
			want = 1
		}
		if n := strings.Count(out.String(), "\n"); n != want {
			t.Errorf("%d lines, want %d:\n%q", n, want, out.String())
		}
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e') }); i >= 0 {
			t.Errorf("%q", out.String()[i:])
		}
		if asJSON && !json.Valid([]byte(out.String())) {
			t.Errorf("no JSON: %s", out.String())
		}
	}
}

// TestManualListsStatus: rpycfs(1) names every field.
func TestManualListsStatus(t *testing.T) {
	page, err := os.ReadFile("../../man/rpycfs.1")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), ".Ss rpycfs status")
	text, _, _ = strings.Cut(text, "\n.Ss ")
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \n,()", r) })
	known := make(map[string]bool)
	for _, w := range words {
		known[w] = true
	}
	d := statusDocument()
	d.Session.LastError, d.Session.NextTry = "x", time.Now()
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]any
	if err := json.Unmarshal(raw, &top); err != nil {
		t.Fatal(err)
	}
	check := func(fields any) {
		for name := range fields.(map[string]any) {
			if !known[name] {
				t.Errorf("the manual does not list %s", name)
			}
		}
	}
	check(top)
	check(top["session"])
	check(top["unwritten"])
	check(top["waiting"].([]any)[0])
	for _, table := range []string{"requests", "calls", "served"} {
		for _, counts := range top[table].(map[string]any) {
			check(counts)
		}
	}
}
