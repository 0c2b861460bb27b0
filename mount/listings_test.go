package mount_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestListedAtOnce: whoever lists a directory gets each name once that stays there, also
// while others list it and names beside come and go.
func TestListedAtOnce(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	const stay = 1500
	for i := range stay {
		w.ok(os.WriteFile(filepath.Join(w.export, fmt.Sprintf("stays-%04d", i)), nil, 0o644))
	}
	w.mount("/")
	var stop atomic.Bool
	var churn, lists sync.WaitGroup
	churn.Go(func() {
		for i := 0; !stop.Load(); i++ {
			name := filepath.Join(w.point, fmt.Sprintf("goes-%d", i))
			if err := os.WriteFile(name, nil, 0o644); err != nil {
				t.Error(err)
				return
			}
			if err := os.Remove(name); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for who := range 6 {
		lists.Go(func() {
			for i := range 12 {
				f, err := os.Open(w.point)
				if err != nil {
					t.Error(err)
					return
				}
				if who == 0 && i%2 == 0 { // and some never come to the end
					f.Readdirnames(10)
					f.Close()
					continue
				}
				names, err := f.Readdirnames(-1)
				f.Close()
				seen := make(map[string]int)
				for _, name := range names {
					if strings.HasPrefix(name, "stays-") {
						seen[name]++
					}
				}
				if err != nil || len(seen) != stay {
					t.Errorf("%d of %d names, %v", len(seen), stay, err)
				}
				for name, n := range seen {
					if n != 1 {
						t.Errorf("%s is there %d times", name, n)
					}
				}
			}
		})
	}
	lists.Wait()
	stop.Store(true)
	churn.Wait()
	f, err := os.Open(w.point)
	w.ok(err)
	defer f.Close()
	w.ok(f.Sync())
}
