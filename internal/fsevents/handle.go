package fsevents

import (
	"encoding/binary"

	"github.com/rpycfs/rpycfs/internal/beneath"
)

// WatchHandle is Watch for an object of the file system by its kernel handle alone.
// Only Fanotify can do that; it makes no system call then. Otherwise ok is false.
func (w *Watcher) WatchHandle(h beneath.KernelHandle) (o Object, ok bool) {
	f, _ := w.source.(*fanotify)
	if f == nil || !f.whole || h.Data == "" {
		return "", false
	}
	o = Object(append(binary.NativeEndian.AppendUint32(nil, uint32(h.Type)), h.Data...))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched[o] = fanWatch{object: o}
	return o, !f.closed
}

// WatchAll makes events tell of everything in the file system, or no longer of what
// is not watched. Only Fanotify can do that: otherwise ok is false.
func (w *Watcher) WatchAll(on bool) (ok bool) {
	f, _ := w.source.(*fanotify)
	if f == nil || !f.whole {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = on
	return !f.closed
}

// KernelHandle returns the handle that o stands for. With Inotify there is none.
func (o Object) KernelHandle() (h beneath.KernelHandle, ok bool) {
	if len(o) <= 4 {
		return h, false
	}
	return beneath.KernelHandle{Type: int32(binary.NativeEndian.Uint32([]byte(o[:4]))), Data: string(o[4:])}, true
}
