//go:build !race

package service

const broadcastEntries = 10_000
