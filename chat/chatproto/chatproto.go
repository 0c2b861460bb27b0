// Package chatproto is the chat service's protocol: the operations, their
// messages, and the numbers in them. Both sides import it; it does nothing.
//
// The service knows nothing of files. A client hands over a listener, which the
// server calls with events, and gets a session, whose methods act as the
// authenticated user. A room is an object of its own: only members get its
// reference, and it is revoked when the membership ends. Who speaks is never
// part of a request.
package chatproto

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/rpycfs/rpycfs/rpc"
)

// Limits of the chat service, in bytes unless noted.
const (
	MaxUser     = 64        // a user's name
	MaxRoomName = 64        // a room's name
	MaxTopic    = 512       // a room's topic
	MaxAwayText = 256       // why somebody is away
	MaxText     = 16 << 10  // the text of a message
	MaxBody     = 18 << 10  // the body of an entry: a text, or sealed and signed
	MaxProof    = 4 << 10   // the signed statement that comes with a change of a sealed room
	MaxRooms    = 256       // rooms that one user is a member of, direct ones included
	MaxMembers  = 1024      // members of one room
	MaxUsers    = 4096      // users that are present
	MaxPage     = 500       // entries in one page of history or of search results
	MaxPageSize = 512 << 10 // bodies in one page, together; a page has at least one entry
	MaxEvents   = 1024      // events in one delivery
	MaxBatch    = 64 << 10  // bodies of events in one delivery, together
	MaxEvent    = 24 << 10  // body of an event
	MaxTerms    = 16        // words and phrases in one search
	MaxTerm     = 256       // one word or phrase
	MaxDevices  = 32        // devices of one user that are not revoked
	MaxList     = 32 << 10  // a signed list of devices
	MaxLists    = 16        // lists in one reply
	MaxHeader   = 96 << 10  // the signed header of a key epoch
	MaxEpochs   = 256       // key epochs in one reply
	MaxBox      = 256       // a key sealed to one device
	MaxSealed   = 8192      // sealed keys in one request, with MaxKeysSize
	MaxKeysSize = 96 << 10  // header and sealed keys of one request, together
	MaxMail     = 8 << 10   // one letter between devices of a user
	MaxMails    = 32        // letters that wait for one user
	MaxNotice   = 512       // text of a notice
)

// RoomID names a room. It is never reused. 0 is no room.
type RoomID uint64

// ID is a name drawn at random by the client for what it says, so that saying it
// again stores it once.
type ID [16]byte

// DeviceID names a device of a user: the first bytes of the SHA-256 of its
// public keys. Zero is no device.
type DeviceID [16]byte

func (i ID) String() string       { return fmt.Sprintf("%x", i[:]) }
func (d DeviceID) String() string { return fmt.Sprintf("%x", d[:]) }

// Numbers of the service's errors.
const (
	CodeNoRoom     = 0x20000 // no such room, or none that the user may know of
	CodeNoUser     = 0x20001 // no such user
	CodeOffline    = 0x20002 // the user is not there, and it was to be now or never
	CodeNotAllowed = 0x20003 // only the room's owner may do that, or not in this kind of room
	CodeExists     = 0x20004 // the name is taken, or the user is a member already
	CodeRate       = 0x20005 // too much at once; the detail is a u32: milliseconds to wait
	CodeFull       = 0x20006 // a limit of rooms, members or devices is reached
	CodeName       = 0x20007 // the name is not allowed
	CodeText       = 0x20008 // the text is empty, too long or not UTF-8
	CodeOverflow   = 0x20009 // the listener did not keep up and was cut off
	CodeStaleKey   = 0x2000a // the room needs a new key epoch before anything is said
	CodeConflict   = 0x2000b // somebody else was faster: fetch and try again
	CodeOtherID    = 0x2000c // the client-made id stands for something else already
	CodeElsewhere  = 0x2000d // another daemon serves the chat that this one would
)

// Error is an error of the chat service. It unwraps to the *rpc.Error that
// crosses the wire, so that a handler returns it as it is; FromRPC is the way
// back.
type Error struct {
	Code       rpc.Code
	RetryAfter time.Duration // with CodeRate: when trying again makes sense
}

// The errors of the service, to compare with by errors.Is.
var (
	ErrNoRoom     = &Error{Code: CodeNoRoom}
	ErrNoUser     = &Error{Code: CodeNoUser}
	ErrOffline    = &Error{Code: CodeOffline}
	ErrNotAllowed = &Error{Code: CodeNotAllowed}
	ErrExists     = &Error{Code: CodeExists}
	ErrRate       = &Error{Code: CodeRate}
	ErrFull       = &Error{Code: CodeFull}
	ErrName       = &Error{Code: CodeName}
	ErrText       = &Error{Code: CodeText}
	ErrOverflow   = &Error{Code: CodeOverflow}
	ErrStaleKey   = &Error{Code: CodeStaleKey}
	ErrConflict   = &Error{Code: CodeConflict}
	ErrOtherID    = &Error{Code: CodeOtherID}
	ErrElsewhere  = &Error{Code: CodeElsewhere}
)

var errorTexts = map[rpc.Code]string{
	CodeNoRoom:     "no such room, or you are not in it",
	CodeNoUser:     "no such user",
	CodeOffline:    "the user is not there",
	CodeNotAllowed: "not allowed in this room",
	CodeExists:     "exists already",
	CodeRate:       "too much at once",
	CodeFull:       "a limit of the server is reached",
	CodeName:       "not a name: letters, digits, \"-\", \"_\" and \".\", at most 64 bytes",
	CodeText:       "the text is empty, too long or not UTF-8",
	CodeOverflow:   "the live feed was cut because events were not taken in time",
	CodeStaleKey:   "the room needs a new key",
	CodeConflict:   "somebody else was faster; try again",
	CodeOtherID:    "the message's id is taken by another message",
	CodeElsewhere:  "another daemon with the same state directory serves the chat; ask there, or try again when it has ended",
}

func (e *Error) Error() string {
	text := errorTexts[e.Code]
	if text == "" {
		text = fmt.Sprintf("error %#x", uint32(e.Code))
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf("; try again in %v", e.RetryAfter.Round(10*time.Millisecond))
	}
	return text
}

// Is reports whether target has the same number.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Unwrap returns the error as it crosses the wire.
func (e *Error) Unwrap() error {
	w := &rpc.Error{Code: e.Code}
	if e.Code == CodeRate {
		ms := uint32(min(max(e.RetryAfter.Milliseconds(), 1), 1<<31))
		w.Detail = []byte{byte(ms), byte(ms >> 8), byte(ms >> 16), byte(ms >> 24)}
	}
	return w
}

// FromRPC returns the *Error that err of a call stands for, or err itself if it
// is none of this service's.
func FromRPC(err error) error {
	var w *rpc.Error
	if !errors.As(err, &w) || errorTexts[w.Code] == "" {
		return err
	}
	e := &Error{Code: w.Code}
	if b := w.Detail; w.Code == CodeRate && len(b) == 4 {
		ms := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		e.RetryAfter = time.Duration(ms) * time.Millisecond
	}
	return e
}

// CheckRoomName returns ErrName unless name can be a room's: 1 to MaxRoomName
// bytes of UTF-8 in normal form C, letters, digits and marks of any script, and
// after the first character also "-", "_" and ".".
func CheckRoomName(name string) error {
	if name == "" || len(name) > MaxRoomName || !utf8.ValidString(name) || !norm.NFC.IsNormalString(name) {
		return ErrName
	}
	for i, r := range name {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r):
		case i > 0 && (r == '-' || r == '_' || r == '.' || unicode.Is(unicode.M, r)):
		default:
			return ErrName
		}
	}
	return nil
}

// FoldRoomName returns the form under which a name is unique.
func FoldRoomName(name string) string { return norm.NFC.String(strings.ToLower(name)) }

// CheckText returns ErrText unless text can be said: 1 to limit bytes of UTF-8
// without NUL. What else a text holds is the business of whoever shows it.
func CheckText(text string, limit int) error {
	if text == "" || len(text) > limit || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return ErrText
	}
	return nil
}
