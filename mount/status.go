package mount

import (
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
)

// Status tells how a mount is and what it has done since it was made. Its names
// in JSON are part of what rpycfs(1) promises: fields are added, and neither
// renamed nor given another meaning.
type Status struct {
	ReadOnly bool   `json:"read_only"` // by the mount or by the server
	RunAs    string `json:"run_as"`    // daemon, account or caller: whose rights decide on the server
	IDMap    string `json:"idmap"`     // self, raw or name

	Nodes        int64  `json:"nodes"` // that the kernel knows, or listings at hand
	OpenFiles    int    `json:"open_files"`
	OpenDirs     int    `json:"open_directories"`
	BytesRead    uint64 `json:"bytes_read"` // by the kernel, which answers from its cache what it can
	BytesWritten uint64 `json:"bytes_written"`

	// How changes made elsewhere become known here.
	Invalidations uint64 `json:"invalidations"` // inodes and entries that the kernel was made to drop
	Events        string `json:"events"`        // none, inotify, fanotify: how the server learns of what its programs change; off: it gives no leases
	EventsWhy     string `json:"events_why"`    // why in no better way, in the server's words
	Recalls       uint64 `json:"recalls"`       // nodes of which the server has taken leases back
	RecalledAll   uint64 `json:"recalled_all"`  // how often it has taken back all
	Epochs        uint64 `json:"epochs"`        // how often the kernel was made to look up every name anew
	// Whether programs that watch by inotify(7) are told of them: "on", or "off" and,
	// unless it was asked for, ": " and why.
	Inotify     string `json:"inotify"`
	InotifyTold uint64 `json:"inotify_told"` // changes that they were told of
	InotifyLost uint64 `json:"inotify_lost"` // changes that they were not told of, as far as is known

	// What happens while the server is out of reach.
	Soft    bool         `json:"soft"`              // requests fail after Timeo, and do not wait on
	Timeo   float64      `json:"timeo_seconds"`     // for how long they wait at least
	Failing bool         `json:"failing"`           // requests fail at once: the server has been silent for Timeo
	Waiting []WaitStatus `json:"waiting,omitempty"` // what waits for the server, by operation, the longest first
	Behind  int          `json:"behind_bytes"`      // answered, and on their way to the server
	// What the kernel had taken for written, and is not.
	Unwritten *UnwrittenStatus `json:"unwritten,omitempty"`
	Undecided *UndecidedStatus `json:"undecided,omitempty"`

	// What was fetched before anybody has asked for it; none where that is not done.
	Ahead *AheadStatus `json:"ahead,omitempty"`

	Requests map[string]RequestStatus `json:"requests"` // of the kernel, by their names in fuse(4)
	Calls    map[string]CallStatus    `json:"calls"`    // to the server, by operation
	Served   map[string]ServedStatus  `json:"served"`   // of the server, by operation
}

// RequestStatus counts the kernel's requests of one kind.
type RequestStatus struct {
	Count uint64 `json:"count"` // answered, or taken note of
	Here  uint64 `json:"here"`  // of Count: no call was begun for them
}

// CallStatus counts the calls of one operation.
type CallStatus struct {
	Count       uint64 `json:"count"`       // ended
	Errors      uint64 `json:"errors"`      // of Count
	InFlight    uint64 `json:"in_flight"`   // begun and not ended
	Nanoseconds int64  `json:"nanoseconds"` // that Count took together
}

// WaitStatus tells of requests of the kernel, and of calls that none waits for, that
// have waited for the server for longer than a moment.
type WaitStatus struct {
	Op    string    `json:"operation"`
	Count int       `json:"count"`
	Since time.Time `json:"since"`         // of the one that waits longest
	PID   uint32    `json:"pid,omitempty"` // on whose behalf, the thread; none if it is the kernel's own
}

// UnwrittenStatus tells of data that programs had written or stored into mappings, and the
// server did not take or could not be told of. They were told by fsync, msync or close.
type UnwrittenStatus struct {
	Bytes uint64    `json:"bytes"`
	Error string    `json:"error"` // of the last
	Last  time.Time `json:"last"`
}

// UndecidedStatus tells of changes of which it cannot be told whether they were made
// (fsproto.Undecided). Who made them got EIO.
type UndecidedStatus struct {
	Count uint64    `json:"count"`
	Op    string    `json:"operation"` // the last one
	Last  time.Time `json:"last"`
}

// ServedStatus counts the calls of one operation that were answered.
type ServedStatus struct {
	Count  uint64 `json:"count"`
	Errors uint64 `json:"errors"` // of Count
}

// Status returns the status at this moment. It makes no call, asks the kernel for
// nothing and waits for neither. It may be called at any time, also after the end
// of the session.
func (fs *FS) Status() Status {
	files, dirs := fs.handles.len()
	s := Status{
		ReadOnly:      fs.readOnly,
		RunAs:         [...]string{"daemon", "account", "caller"}[fs.runAs],
		IDMap:         fs.ids.how.String(),
		Nodes:         fs.nodes.count.Load(),
		OpenFiles:     files,
		OpenDirs:      dirs,
		BytesRead:     fs.bytesRead.Load(),
		BytesWritten:  fs.bytesWritten.Load(),
		Invalidations: fs.invalidations.Load(),
		Epochs:        fs.epochs.Load(),
		Inotify:       fs.inject.state(),
		Requests:      make(map[string]RequestStatus),
		Calls:         make(map[string]CallStatus),
		Served:        make(map[string]ServedStatus),
	}
	fs.leases.status(&s)
	fs.link.status(&s)
	fs.behind.status(&s)
	s.Ahead = fs.ahead.get()
	s.Unwritten, s.Undecided = fs.unwritten.get(), fs.undecided.get()
	if in := fs.inject; in != nil {
		s.InotifyTold, s.InotifyLost = in.told.Load(), in.lost.Load()
	}
	for kind := range fs.requests {
		here, called := fs.requests[kind].here.Load(), fs.requests[kind].called.Load()
		if here+called > 0 {
			s.Requests[requestNames[kind]] = RequestStatus{Count: here + called, Here: here}
		}
	}
	for _, c := range fs.peer.Stats() {
		if c.Calls+c.InFlight > 0 {
			s.Calls[c.Op.Name] = CallStatus{c.Calls, c.Errors, c.InFlight, c.Time.Nanoseconds()}
		}
		if c.Served > 0 {
			s.Served[c.Op.Name] = ServedStatus{c.Served, c.ServedErrors}
		}
	}
	return s
}

// readOnly reports whether nothing can be changed through a mount.
func readOnly(cfg *Config, told *fsproto.AttachRes) bool {
	return cfg.Flags&unix.MS_RDONLY != 0 || told.Flags&fsproto.ExportReadOnly != 0
}

// countedKernel counts the notifications that made the kernel drop something; it
// answers ENOENT where it had nothing.
type countedKernel struct {
	kernel
	dropped *atomic.Uint64
}

func (k countedKernel) InodeNotify(node uint64, off, length int64) fuse.Status {
	st := k.kernel.InodeNotify(node, off, length)
	k.count(st)
	return st
}

func (k countedKernel) EntryNotify(parent uint64, name string) fuse.Status {
	st := k.kernel.EntryNotify(parent, name)
	k.count(st)
	return st
}

func (k countedKernel) count(st fuse.Status) {
	if st.Ok() {
		k.dropped.Add(1)
	}
}
