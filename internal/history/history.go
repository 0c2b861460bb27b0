// Package history checks what several clients have done to one directory, and
// seen of it, against what one directory could have shown them.
//
// A Round lets clients work on fresh names and remembers each operation with
// the moments at which it began and ended. A history is what was done to one
// object: a name, the content of a file, one of its attributes. It is explained
// if its operations can be put into an order
//
//   - that one object could have done them in, one after the other (Model), and
//   - in which every operation comes after those that it must have seen.
//
// What it must have seen is nearly always what had ended before it began, and an
// order with that is a linearisation. There are two exceptions. A client that was
// cut off or stopped may tell of the moment of the cut (Outage), but never goes
// back behind what it has shown before. And changes made on the server's own disk
// reach the mounts a while later (Round.Grace). Both make the order partial: it
// holds between some operations and not between others, which intervals of time,
// all that a checker of linearisability usually takes, cannot say.
//
// A listing is no single moment. It must have what was there from its beginning
// to its end, and nothing that was away all the while.
package history

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Server is the number of the client that works on the server's own directory.
const Server = 0

// Op is an operation that one client did to one object.
type Op struct {
	Client int // Server, or the number of a mount
	Call   Call
	Value  string     // what it wrote or found, as the Model of the object spells it
	Err    unix.Errno // 0 or why it failed

	Start, End time.Duration // since the Clock began
	// Since is the earliest moment of which an observation may tell: Start, or
	// the moment at which its client was cut off.
	Since time.Duration
	// Unsure marks a change that may have been made or not. No other operation
	// has to come after it.
	Unsure bool
}

// Call is what an operation does.
type Call string

// The calls on each kind of object. Those that succeed in the first line of each
// kind are changes, all others are observations.
const (
	// Of a name: open(2) with O_CREAT|O_EXCL, mkdir, unlink, rmdir, rename of
	// another file onto it and of it to elsewhere; lstat, and open+fstat+read.
	Create, Mkdir, Unlink, Rmdir, Onto, Away Call = "create", "mkdir", "unlink", "rmdir", "rename onto", "rename away"
	Stat, Open                               Call = "stat", "open+read"

	// Of a file's content: pwrite and ftruncate through an open descriptor; a read
	// by a fresh open, through the open descriptor, and through a mapping; the
	// size by stat and fstat.
	Write, Truncate                         Call = "write", "truncate"
	Read, ReadHeld, ReadMap, Size, SizeOfFD Call = "open+read", "read of open file", "read of mapping", "size by stat", "size by fstat"

	// Of an attribute: chmod, utimensat or chown; by stat, and fstat of an open
	// descriptor.
	Set            Call = "set"
	Get, GetFromFD Call = "stat", "fstat"

	// Of a directory: a listing by a fresh open, and through a descriptor that is
	// rewound.
	List, ListHeld Call = "listing", "listing of open directory"
)

// changes tells whether the operation has changed the object, or may have.
func (o *Op) changes() bool {
	switch o.Call {
	case Create, Mkdir, Unlink, Rmdir, Onto, Away, Write, Truncate, Set:
		return o.Err == 0
	}
	return false
}

// before tells whether a must come before b in every explanation.
func before(a, b *Op, grace time.Duration) bool {
	switch {
	case a.Unsure:
		return false
	case a.Client == b.Client || b.changes():
		return a.End < b.Start
	case grace > 0 && b.Client != Server && (a.Client == Server || !a.changes()):
		// The server's own changes may be unseen for a while; and that another
		// client has seen them, or not yet, says nothing of this one.
		return a.End < b.Since-grace
	}
	return a.End < b.Since
}

// An Outage is the time for which a client was cut off or stopped. To is when
// its first call over the restored connection had succeeded.
type Outage struct {
	Client   int
	From, To time.Duration
}

// overlaps tells whether o was under way during the outage.
func (out Outage) overlaps(o *Op) bool {
	return o.Client == out.Client && o.Start <= out.To && o.End >= out.From
}

// excuse applies the rule of cut-off clients to a history: what they observe
// meanwhile may be as old as the cut.
func excuse(ops []Op, outages []Outage) {
	for i := range ops {
		o := &ops[i]
		o.Since = o.Start
		for _, out := range outages {
			if out.overlaps(o) {
				o.Since = min(o.Since, out.From)
				if o.Call == Away {
					o.Value = "" // taken from names that were cached before the cut
				}
			}
		}
	}
}

// A Clock tells the time of all clients' operations. It is monotonic, and safe
// for concurrent use.
type Clock struct{ began time.Time }

// NewClock returns a clock that begins now.
func NewClock() Clock { return Clock{time.Now()} }

// Now is the time since the clock began.
func (c Clock) Now() time.Duration { return time.Since(c.began) }

// String is one line, without the times.
func (o *Op) String() string {
	result := o.Value
	switch {
	case o.Unsure:
		result += " (not known whether)"
	case o.Err != 0:
		result = unix.ErrnoName(o.Err)
	case result == "":
		result = "done"
		if !o.changes() {
			result = "empty"
		}
	}
	return fmt.Sprintf("%-7s  %-17s %s", nameOf(o.Client), o.Call, result)
}

func nameOf(client int) string {
	if client == Server {
		return "server"
	}
	return fmt.Sprintf("mount %d", client)
}
