//go:build race

package service

// The race detector makes copying memory ten times slower.
const broadcastEntries = 1_000
