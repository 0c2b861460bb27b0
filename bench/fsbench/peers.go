package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

// peer is a way to reach the exported tree.
type peer interface {
	name() string
	// mount starts a new server, where there is one, and a new client.
	mount(ctx context.Context, c *cell) (*mounted, error)
}

// cell is where one peer is measured: a link, both sides of it, and a fresh
// directory for keys, caches and the like.
type cell struct {
	link           *link
	ends           peers.Ends
	client, server *group
	tree           string // exported
	mnt            string // an empty directory
	tmp            string
}

// mounted is a mount with its server.
type mounted struct {
	*peers.Mounted
	server interface{ Stop() } // nil where there is none

	settle func(context.Context) error          // waits until what was written is at the server; nil: it is
	calls  func(context.Context) (Calls, error) // counts what was asked; nil: not known
}

func (m *mounted) unmount() error {
	err := m.Unmount()
	if m.server != nil {
		m.server.Stop()
	}
	return err
}

// local is the exported directory itself.
type local struct{}

func (local) name() string { return peerLocal }

func (local) mount(_ context.Context, c *cell) (*mounted, error) {
	return &mounted{Mounted: &peers.Mounted{Dir: c.tree}}, nil
}

// sshfs mounts through an sshd.
type sshfs struct {
	label   string
	options []string
}

func (s *sshfs) name() string { return s.label }

func (s *sshfs) mount(ctx context.Context, c *cell) (*mounted, error) {
	server := &peers.SSHServer{Dir: c.tmp, At: c.ends}
	m, err := (&peers.SSHFS{Server: server, Tree: c.tree, Mnt: c.mnt, Options: s.options}).Mount(ctx)
	return &mounted{Mounted: m, server: server}, err
}

// rclone mounts through an sshd, with its full cache. It uploads what was written
// after the file has been closed.
type rclone struct{}

func (rclone) name() string { return peerRclone }

func (rclone) mount(ctx context.Context, c *cell) (*mounted, error) {
	port, err := c.link.client.freePort("127.0.0.1")
	if err != nil {
		return nil, err
	}
	control := "127.0.0.1:" + port
	server := &peers.SSHServer{Dir: c.tmp, At: c.ends}
	m, err := (&peers.Rclone{Server: server, Tree: c.tree, Mnt: c.mnt, Cache: filepath.Join(c.tmp, "cache"),
		Options: append([]string{"--rc", "--rc-no-auth", "--rc-addr", control}, rcloneOptions...)}).Mount(ctx)
	return &mounted{Mounted: m, server: server,
		settle: func(ctx context.Context) error { return uploaded(ctx, c.link.client, control) }}, err
}

// uploaded waits until nothing is left to upload. The kernel does not wait for the
// answer when it tells that a file was closed, so nothing is so three times in a row.
func uploaded(ctx context.Context, here *place, control string) error {
	for nothing := 0; nothing < 3; nothing++ {
		out, err := peers.Spawn{In: here.in}.Run(ctx, "rclone", "rc", "--rc-addr", control, "vfs/stats")
		if err != nil {
			return err
		}
		var stats struct {
			DiskCache struct{ UploadsInProgress, UploadsQueued int }
		}
		if err := json.Unmarshal(out, &stats); err != nil {
			return err
		}
		if stats.DiskCache.UploadsInProgress+stats.DiskCache.UploadsQueued > 0 {
			nothing = -1
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rclone still uploads: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// rpycfs is our own daemon and mount, as a user would run them, from the
// programs in bin.
type rpycfs struct {
	label, bin string
}

func (r *rpycfs) name() string { return r.label }

func (r *rpycfs) mount(ctx context.Context, c *cell) (*mounted, error) {
	daemon := &peers.Rpycfs{Bin: r.bin, State: c.tmp, Tree: c.tree, Mnt: c.mnt, At: c.ends}
	m, err := daemon.Mount(ctx)
	return &mounted{Mounted: m, server: daemon,
		calls: func(ctx context.Context) (Calls, error) { return r.calls(ctx, c.mnt) }}, err
}

// Calls counts the kernel's requests and the calls to the server, by name.
type Calls struct {
	Requests, Calls map[string]int64 `json:",omitempty"`
}

// calls asks rpycfs status.
func (r *rpycfs) calls(ctx context.Context, mnt string) (Calls, error) {
	var doc struct {
		Requests, Calls map[string]struct{ Count int64 }
	}
	out, err := peers.Spawn{}.Run(ctx, filepath.Join(r.bin, "rpycfs"), "status", "--json", mnt)
	if err == nil {
		err = json.Unmarshal(out, &doc)
	}
	counts := func(m map[string]struct{ Count int64 }) map[string]int64 {
		all := map[string]int64{}
		for name, n := range m {
			all[name] = n.Count
		}
		return all
	}
	return Calls{counts(doc.Requests), counts(doc.Calls)}, err
}

// since returns what has been counted since before.
func (c Calls) since(before Calls) Calls {
	minus := func(m, before map[string]int64) {
		for name := range m {
			if m[name] -= before[name]; m[name] == 0 {
				delete(m, name)
			}
		}
	}
	minus(c.Requests, before.Requests)
	minus(c.Calls, before.Calls)
	return c
}
