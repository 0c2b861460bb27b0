package main

import "github.com/rpycfs/rpycfs/internal/mounts"

// sync is rpycfs sync.
type sync struct {
	Mount string `arg:"" help:"Mount point, or HOST:/PATH as it was mounted."`
}

// Run puts everything written through the mount on the daemon's disk.
func (s *sync) Run(*environment) error { return mounts.Sync(s.Mount) }
