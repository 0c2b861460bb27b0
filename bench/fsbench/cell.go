package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// measure runs one workload on one peer, mounted afresh, and returns units per
// second. Whatever hangs is cut off after limit by ending the peer's processes.
func measure(p peer, l load, warm func() error, limit time.Duration) (rate float64, err error) {
	if err := l.before(); err != nil {
		return 0, err
	}
	if err := dropCaches(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	m, err := p.Mount(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Unmount()) }()
	stop := context.AfterFunc(ctx, m.Kill)
	defer stop()
	if l.warm {
		if err := warm(); err != nil {
			return 0, err
		}
	}
	if l.again {
		if _, err := l.run(m.Dir); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	units, err := l.run(m.Dir)
	took := time.Since(begin)
	if err == nil {
		err = l.after()
	}
	if ctx.Err() != nil {
		err = errors.Join(err, fmt.Errorf("not done in %s", limit))
	}
	return units / took.Seconds(), err
}

// dropCaches writes out what is dirty and empties the page cache and the caches
// of names and inodes, of client and server alike: they are one machine.
func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0o200)
}
