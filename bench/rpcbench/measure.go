package main

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	callSize = 64      // bytes each way of a small call
	maxCall  = 1 << 20 // longest frame of the bare multiplexer
)

// echoer makes small calls; it is used by many goroutines at once.
type echoer interface {
	Echo(p, into []byte) error
}

// mover moves bulk data. n is a multiple of chunk.
type mover interface {
	Read(n int64) error
	Write(n int64) error
}

// calls lets n callers call as fast as they can for d and returns calls per
// second. Every answer is compared with what was sent.
func calls(e echoer, n int, d time.Duration) (float64, error) {
	var stop atomic.Bool
	var total atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, n)
	begin := time.Now()
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	for i := range n {
		wg.Go(func() {
			done, err := callUntil(e, byte(i), &stop)
			total.Add(done)
			errs[i] = err
		})
	}
	wg.Wait()
	return float64(total.Load()) / time.Since(begin).Seconds(), errors.Join(errs...)
}

func callUntil(e echoer, seed byte, stop *atomic.Bool) (done int64, err error) {
	p, into := bytes.Repeat([]byte{seed}, callSize), make([]byte, callSize)
	for ; !stop.Load(); done++ {
		p[0]++
		if err := e.Echo(p, into); err != nil {
			return done, err
		}
		if !bytes.Equal(p, into) {
			return done, errors.New("an answer is not what was sent")
		}
	}
	return done, nil
}

// bulk moves n bytes with move and returns MiB per second.
func bulk(move func(int64) error, n int64) (float64, error) {
	begin := time.Now()
	err := move(n)
	return float64(n) / (1 << 20) / time.Since(begin).Seconds(), err
}

// callTimes makes n calls in all by as many callers.
func callTimes(e echoer, callers, n int) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, callers)
	for i := range callers {
		wg.Go(func() {
			p, into := make([]byte, callSize), make([]byte, callSize)
			for errs[i] == nil && next.Add(1) <= int64(n) {
				errs[i] = e.Echo(p, into)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
