package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"
)

// rclone mounts through an sshd, with its full cache. It uploads what was written
// after the file has been closed.
type rclone struct{}

func (rclone) name() string { return peerRclone }

func (rclone) mount(ctx context.Context, c *cell) (*mounted, error) {
	server, err := startSSH(c)
	if err != nil {
		return nil, err
	}
	port, err := c.link.client.freePort("127.0.0.1")
	if err != nil {
		return nil, err
	}
	control := "127.0.0.1:" + port
	p, err := c.client.start("rclone", append([]string{"mount", ":sftp:" + c.tree, c.mnt,
		"--config", filepath.Join(c.tmp, "rclone.conf"), "--cache-dir", filepath.Join(c.tmp, "cache"),
		"--sftp-host", server.host, "--sftp-port", server.port, "--sftp-user", "root",
		"--sftp-key-file", server.userKey(), "--sftp-known-hosts-file", server.knownHosts(),
		"--rc", "--rc-no-auth", "--rc-addr", control}, rcloneOptions...)...)
	if err != nil {
		server.proc.kill()
		return nil, err
	}
	m, err := awaitMount(ctx, c.mnt, p, server.proc)
	if err == nil {
		m.settle = func(ctx context.Context) error { return uploaded(ctx, c.client.place, control) }
	}
	return m, err
}

// uploaded waits until nothing is left to upload. The kernel does not wait for the
// answer when it tells that a file was closed, so nothing is so three times in a row.
func uploaded(ctx context.Context, here *place, control string) error {
	for nothing := 0; ; {
		out, err := spawn{place: here}.run(ctx, "rclone", "rc", "--rc-addr", control, "vfs/stats")
		if err != nil {
			return err
		}
		var stats struct {
			DiskCache struct{ UploadsInProgress, UploadsQueued int }
		}
		if err := json.Unmarshal(out, &stats); err != nil {
			return err
		}
		nothing++
		if stats.DiskCache.UploadsInProgress+stats.DiskCache.UploadsQueued > 0 {
			nothing = 0
		}
		if nothing == 3 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rclone still uploads: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
