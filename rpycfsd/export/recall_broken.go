//go:build brokenrecall

package export

import "sync/atomic"

// A daemon that is built with this tag is wrong: it forgets one recall in fifty. TestBrokenRecall
// shows that the histories find that.
func init() {
	var n atomic.Uint32
	forgets = func() bool { return n.Add(1)%50 == 0 }
}
