// Package status is the question how a mount is, and its answer: one JSON
// document, which the process behind the mount writes to whoever connects to its
// socket and may ask. The question is the connection itself.
package status

import (
	"time"

	"github.com/rpycfs/rpycfs/mount"
)

// Version is the version of Document. A field that is added does not raise it.
const Version = 1

// Document is the answer. Its names in JSON are listed in rpycfs(1) and part of
// the interface.
type Document struct {
	Version int `json:"version"`

	MountPoint string    `json:"mount_point"`
	Source     string    `json:"source"` // host:/path, as in the mount table
	Device     string    `json:"device"` // major:minor
	Server     string    `json:"server"` // host:port, of several the one that the connection goes to, or went to
	User       string    `json:"user"`   // who is logged in there
	PID        int       `json:"pid"`
	Program    string    `json:"program"` // version of mount.rpycfs
	Mounted    time.Time `json:"mounted"`

	Session Session `json:"session"`
	mount.Status
}

// Values of Session.State.
const (
	Connected    = "connected"
	Reconnecting = "reconnecting" // what is asked waits for the next connection
	Over         = "over"         // everything fails; the mount has to be made again
)

// Session tells how the session to the server stands.
type Session struct {
	State     string    `json:"state"`
	Since     time.Time `json:"since"`                 // of State; of the loss, if it is over
	Epoch     uint32    `json:"epoch"`                 // counts connections and attempts
	RTT       int64     `json:"rtt_nanoseconds"`       // round trip of the last ping; 0 before the first
	Heard     time.Time `json:"heard,omitzero"`        // when something came last from the server
	LastError string    `json:"last_error,omitempty"`  // why the last connection or attempt failed
	NextTry   time.Time `json:"next_attempt,omitzero"` // while reconnecting

	Compression Compression `json:"compression"`
}

// Compression tells what was compressed since the mount was made, and whether data is now.
type Compression struct {
	Mode      string `json:"mode"`      // auto, on or off: what was asked for
	Receiving string `json:"receiving"` // "on" or "off" and, unless it was asked for, ": " and why
	Sending   string `json:"sending"`   // the same

	Received     uint64 `json:"received_bytes"` // that came compressed, as they are now
	ReceivedWire uint64 `json:"received_wire"`  // as they came
	Sent         uint64 `json:"sent_bytes"`     // that were compressed, as they were before
	SentWire     uint64 `json:"sent_wire"`      // as they went
	SentPlain    uint64 `json:"sent_plain"`     // messages that were sent as they were, as too little was saved
}
