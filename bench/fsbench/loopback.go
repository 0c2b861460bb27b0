package main

import (
	"context"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

// loopbackFS is go-fuse's loopback file system, which carries every read and
// write itself: what a file system in Go through FUSE can reach.
type loopbackFS struct{}

func (loopbackFS) name() string { return peerLoopback }

func (loopbackFS) mount(ctx context.Context, c *cell) (*mounted, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := c.ends.Client.Start(exe, roleLoopback, c.tree, c.mnt)
	if err != nil {
		return nil, err
	}
	m, err := peers.AwaitMount(ctx, c.mnt, p)
	return &mounted{Mounted: m}, err
}

// serveLoopback is the process of a loopbackFS. Without CAP_PASSTHROUGH the kernel
// would not read and write the file behind by itself.
func serveLoopback(args []string) error {
	root, err := fs.NewLoopbackRoot(args[0])
	if err != nil {
		return err
	}
	second := time.Second
	server, err := fs.Mount(args[1], root, &fs.Options{
		AttrTimeout: &second, EntryTimeout: &second, NullPermissions: true,
		MountOptions: fuse.MountOptions{FsName: args[0], Name: "loopback", DisabledCapabilities: fuse.CAP_PASSTHROUGH},
	})
	if err != nil {
		return err
	}
	server.Wait()
	return nil
}
