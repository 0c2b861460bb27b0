package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rpycfs/rpycfs/internal/clean"
	"github.com/rpycfs/rpycfs/internal/status"
	"github.com/rpycfs/rpycfs/mount"
)

// quiet is how long a connection is silent before a person is told. A ping is
// answered every 5 s.
const quiet = 8 * time.Second

// statusText is a status as a person reads it: what matters most first.
func statusText(d *status.Document) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(clean.Line(fmt.Sprintf(format, args...)) + "\n") }
	line("%s: %s as %s%s", d.MountPoint, d.Source, d.User, map[bool]string{true: ", read only"}[d.ReadOnly])
	line("  %s", connection(d, time.Now()))
	if text := waiting(d.Calls); text != "" {
		line("  %s", text)
	}
	for _, text := range held(d, time.Now()) {
		line("  %s", text)
	}
	line("  mounted %s, process %d, rpycfs %s; rights on the server: %s, idmap: %s", at(d.Mounted), d.PID, d.Program, d.RunAs, d.IDMap)
	line("  read %s, written %s; open files %d, directories %d; nodes known %d, invalidated %d",
		size(d.BytesRead), size(d.BytesWritten), d.OpenFiles, d.OpenDirs, d.Nodes, d.Invalidations)
	line("  %s", leases(d))
	if a := d.Ahead; a != nil {
		line("  fetched ahead: %d directories, %d used, %s of %s; %d files, %d used, %s of %s", a.Dirs, a.DirsUsed, size(a.BytesUsed), size(a.Bytes),
			a.Files, a.FilesUsed, size(a.FileBytesUsed), size(a.FileBytes))
	}
	line("  %s", events(d))
	line("  %s", compression(&d.Session.Compression))
	for _, name := range slices.Sorted(maps.Keys(d.Served)) {
		line("  calls of the server: %s %d", name, d.Served[name].Count)
	}
	if rows := operations(d); len(rows) > 0 {
		b.WriteString("\n")
		for _, row := range rows {
			line("%s", row)
		}
	}
	return b.String()
}

// leases tells how changes made elsewhere become known.
func leases(d *status.Document) string {
	text := fmt.Sprintf("changes on the server: %s, called back %d", d.Events, d.Recalls)
	if d.RecalledAll > 0 {
		text += fmt.Sprintf(" and %d times for all", d.RecalledAll)
	}
	if d.EventsWhy != "" {
		text += " (" + d.EventsWhy + ")"
	}
	return text
}

// events tells whether who watches is told of changes made elsewhere.
func events(d *status.Document) string {
	text := "inotify events for changes made elsewhere: " + d.Inotify
	if d.InotifyTold+d.InotifyLost > 0 {
		text += fmt.Sprintf("; told %d, left out %d", d.InotifyTold, d.InotifyLost)
	}
	return text
}

// compression tells what was compressed, and why it is or is not now.
func compression(c *status.Compression) string {
	text := fmt.Sprintf("compression: %s", c.Mode)
	if c.Mode == "auto" {
		text += fmt.Sprintf("; receiving %s; sending %s", c.Receiving, c.Sending)
	}
	if c.Received > 0 {
		text += fmt.Sprintf("; received %s as %s", size(c.Received), size(c.ReceivedWire))
	}
	if c.Sent > 0 {
		text += fmt.Sprintf("; sent %s as %s", size(c.Sent), size(c.SentWire))
	}
	if c.SentPlain > 0 {
		text += fmt.Sprintf("; %d messages were sent as they were", c.SentPlain)
	}
	return text
}

// connection tells how the session stands.
func connection(d *status.Document, now time.Time) string {
	s := &d.Session
	since := fmt.Sprintf("since %s (%v)", at(s.Since), now.Sub(s.Since).Round(time.Second))
	switch s.State {
	case status.Connected:
		text := fmt.Sprintf("connected to %s %s", d.Server, since)
		if s.RTT > 0 {
			text += ", round trip " + took(time.Duration(s.RTT))
		}
		if silence := now.Sub(s.Heard); !s.Heard.IsZero() && silence > quiet {
			text += fmt.Sprintf(", nothing heard for %v", silence.Round(time.Second))
		}
		return text
	case status.Over:
		return fmt.Sprintf("the session with %s is over, not connected %s: %s; unmount and mount again", d.Server, since, s.LastError)
	}
	text := fmt.Sprintf("not connected to %s %s: %s", d.Server, since, s.LastError)
	if wait := s.NextTry.Sub(now); !s.NextTry.IsZero() && wait > 0 {
		text += fmt.Sprintf("; next attempt in %.1f s", wait.Seconds())
	}
	return text
}

// waiting tells which calls have no answer yet.
func waiting(calls map[string]mount.CallStatus) string {
	var total uint64
	var names []string
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		if n := calls[name].InFlight; n > 0 {
			total += n
			names = append(names, fmt.Sprintf("%s %d", name, n))
		}
	}
	if total == 0 {
		return ""
	}
	return fmt.Sprintf("calls without an answer yet: %d (%s)", total, strings.Join(names, ", "))
}

// held tells what waits for the server, and for how long it will.
func held(d *status.Document, now time.Time) (lines []string) {
	limit := time.Duration(d.Timeo * float64(time.Second))
	if d.Failing {
		lines = append(lines, fmt.Sprintf("soft: the server has been silent for %v, and what needs it fails at once", limit))
	}
	if len(d.Waiting) > 0 {
		var list []string
		for _, w := range d.Waiting {
			text := fmt.Sprintf("%s %d for %v", w.Op, w.Count, now.Sub(w.Since).Round(100*time.Millisecond))
			if w.PID != 0 {
				text += fmt.Sprintf(" (process %d)", w.PID)
			}
			list = append(list, text)
		}
		then := "hard: they wait until the server answers"
		if d.Soft {
			then = fmt.Sprintf("soft: they fail after %v if the server is silent", limit)
		}
		lines = append(lines, fmt.Sprintf("waiting: %s; %s", strings.Join(list, ", "), then))
	}
	if u := d.Unwritten; u != nil {
		lines = append(lines, fmt.Sprintf("NOT WRITTEN: %s, last at %s: %s", size(u.Bytes), at(u.Last), u.Error))
	}
	if u := d.Undecided; u != nil {
		lines = append(lines, fmt.Sprintf("UNDECIDED: %d, last %s at %s: the daemon was killed in the middle of it, and a program on the server changed the same; look whether it was made", u.Count, u.Op, at(u.Last)))
	}
	return lines
}

// operation is a line of the table: what the kernel has asked for under a name, and
// what the server was asked for under the same one.
type operation struct {
	name     string
	requests mount.RequestStatus
	calls    mount.CallStatus
}

// operations returns the table of what was not 0, the most frequent first.
func operations(d *status.Document) (rows []string) {
	byName := make(map[string]operation)
	for name, r := range d.Requests {
		byName[name] = operation{name: name, requests: r}
	}
	for name, c := range d.Calls {
		o := byName[name]
		o.name, o.calls = name, c
		byName[name] = o
	}
	list := slices.SortedFunc(maps.Values(byName), func(a, b operation) int {
		return cmp.Or(cmp.Compare(b.requests.Count+b.calls.Count, a.requests.Count+a.calls.Count), cmp.Compare(a.name, b.name))
	})
	if len(list) == 0 {
		return nil
	}
	rows = append(rows, fmt.Sprintf("%-16s %9s %9s %9s %7s %10s", "OPERATION", "REQUESTS", "HERE", "CALLS", "ERRORS", "MEAN"))
	for _, o := range list {
		mean := "-"
		if o.calls.Count > 0 {
			mean = took(time.Duration(o.calls.Nanoseconds / int64(o.calls.Count)))
		}
		rows = append(rows, fmt.Sprintf("%-16s %9d %9d %9d %7d %10s", o.name, o.requests.Count, o.requests.Here, o.calls.Count, o.calls.Errors, mean))
	}
	return rows
}

func at(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// took is a duration to three digits or so.
func took(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// size is a number of bytes in the largest unit that it reaches.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	value, unit := float64(n)/1024, 0
	for ; value >= 1024 && unit < len(units)-1; unit++ {
		value /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
