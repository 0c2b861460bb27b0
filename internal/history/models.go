package history

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Model says what one object does: whether an operation with that outcome is
// possible in a state, and the state after it. A failed operation changes no state.
type Model func(state string, o *Op) (next string, ok bool)

// Name is the model of a name in a directory. The state is "" while nothing has
// the name, "dir", or "file INODE TEXT", where the text is what the file holds,
// which never changes. Values are such states; those of Stat and Away lack the
// text. Away may leave open what it found.
func Name(state string, o *Op) (string, bool) {
	kind, _, _ := strings.Cut(state, " ")
	if o.Err != outcome(kind, o.Call) {
		return state, false
	}
	if o.Err != 0 {
		return state, true
	}
	switch o.Call {
	case Create, Mkdir, Onto:
		return o.Value, true
	case Unlink, Rmdir:
		return "", true
	case Away:
		return "", o.Value == "" || o.Value == withoutText(state)
	case Stat:
		return state, o.Value == withoutText(state)
	case Open:
		return state, o.Value == state
	}
	return state, false
}

// outcome is the error of a call on a name that stands for nothing ("") or a
// thing of a kind. Directories are always empty.
func outcome(kind string, call Call) unix.Errno {
	switch call {
	case Create, Mkdir:
		if kind != "" {
			return unix.EEXIST
		}
		return 0
	case Onto:
		if kind == "dir" {
			return unix.EISDIR
		}
		return 0
	}
	switch {
	case kind == "":
		return unix.ENOENT
	case kind == "dir" && call == Unlink:
		return unix.EISDIR
	case kind == "file" && call == Rmdir:
		return unix.ENOTDIR
	}
	return 0
}

// withoutText is the state of a name as lstat(2) shows it.
func withoutText(state string) string {
	if i := strings.LastIndexByte(state, ' '); i >= 0 {
		return state[:i]
	}
	return state
}

// Content is the model of a file that is written as a whole: the state is the
// value that it holds, "" if it is empty.
func Content(state string, o *Op) (string, bool) {
	if o.Err != 0 {
		return state, false
	}
	switch o.Call {
	case Write:
		return o.Value, true
	case Truncate:
		return "", true
	case Size, SizeOfFD:
		return state, o.Value == sizeOf(state)
	}
	return state, o.Value == state
}

func sizeOf(state string) string {
	if state == "" {
		return "0"
	}
	return strconv.Itoa(contentSize)
}

// Attribute is the model of one attribute: the state is its value.
func Attribute(state string, o *Op) (string, bool) {
	if o.Call == Set {
		return o.Value, o.Err == 0
	}
	return state, o.Err == 0 && o.Value == state
}

// withoutOwn leaves out of a history what a client has seen while a change of its own
// was under way. A kernel puts a write into its own pages before it hands it on, so its
// readers may have it before anybody else can; and it cuts a file off, or changes a
// name or attributes, when the server has answered, when others may have seen that
// already. What it shows after the change, is checked.
func withoutOwn(ops []Op) []Op {
	var kept []Op
	for _, o := range ops {
		if o.changes() || !duringOwnChange(ops, &o) {
			kept = append(kept, o)
		}
	}
	return kept
}

func duringOwnChange(ops []Op, o *Op) bool {
	for i := range ops {
		w := &ops[i]
		if w.changes() && w.Client == o.Client && w.Start <= o.End && o.Start <= w.End {
			return true
		}
	}
	return false
}
