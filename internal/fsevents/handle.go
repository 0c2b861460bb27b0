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
