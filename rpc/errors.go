package rpc

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Code is an error number on the wire. Numbers below 0x1000 are the POSIX
// errors, with Linux's values on every host; numbers from 0x10000 are the RPC
// layer's own; services define theirs from 0x20000.
type Code uint32

// The RPC layer's own error numbers.
const (
	CodeInternal    Code = 0x10000 // the handler failed in a way that has no number
	CodeNoMethod    Code = 0x10001 // the object has no such method
	CodeNoReference Code = 0x10002 // no such object reference in this session
	CodeBadRequest  Code = 0x10003 // the message does not decode, or breaks a rule
	CodeCanceled    Code = 0x10004 // the caller cancelled, or a call it depended on failed
	CodeDeadline    Code = 0x10005 // the deadline passed before the call began
	CodeSlot        Code = 0x10006 // slot or sequence number out of order
	CodeBusy        Code = 0x10007 // a limit is reached; try again later
	CodeGone        Code = 0x10008 // the session has ended
)

// Errors that Error values unwrap to, one for each number of the RPC layer.
var (
	ErrInternal    = errors.New("internal error of the other side")
	ErrNoMethod    = errors.New("no such method")
	ErrNoReference = errors.New("no such reference")
	ErrBadRequest  = errors.New("malformed request")
	ErrSlot        = errors.New("slot out of order")
	ErrBusy        = errors.New("too much at once, try again later")
	ErrGone        = errors.New("session has ended")
)

var ownErrors = map[Code]error{
	CodeInternal: ErrInternal, CodeNoMethod: ErrNoMethod, CodeNoReference: ErrNoReference,
	CodeBadRequest: ErrBadRequest, CodeCanceled: context.Canceled, CodeDeadline: context.DeadlineExceeded,
	CodeSlot: ErrSlot, CodeBusy: ErrBusy, CodeGone: ErrGone,
}

// MaxErrorDetail bounds Error.Detail, in bytes.
const MaxErrorDetail = 1024

// Error is what a failed call returns, and what a handler may return to choose
// number and detail. It unwraps to a syscall.Errno for POSIX numbers, so that
// errors.Is(err, fs.ErrNotExist) and errors.Is(err, syscall.ENOTEMPTY) hold
// across the wire, and to the errors above for the RPC layer's own.
type Error struct {
	Code   Code
	ID     uint64 // names the entry in the log of the side that failed; 0: none
	Detail []byte // a message of the service's, at most MaxErrorDetail bytes
}

func (e *Error) Error() string {
	text := fmt.Sprintf("error %#x", uint32(e.Code))
	if err := e.Unwrap(); err != nil {
		text = err.Error()
	}
	if e.ID != 0 {
		text += fmt.Sprintf(" (error id %016x)", e.ID)
	}
	return text
}

// Unwrap returns the error that the number stands for, or nil.
func (e *Error) Unwrap() error {
	if e.Code < 0x1000 && e.Code != 0 {
		return errnoOf(e.Code)
	}
	return ownErrors[e.Code]
}

// CodeOf maps an error of a handler to its number on the wire. Text does not
// cross the wire: it would leak paths.
func CodeOf(err error) Code {
	var own *Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &own):
		return own.Code
	case errors.As(err, &errno):
		return codeOfErrno(errno)
	}
	for code, e := range ownErrors {
		if errors.Is(err, e) {
			return code
		}
	}
	return CodeInternal
}
