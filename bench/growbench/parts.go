package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

// Values of a point.
const (
	coldFind   = "find, cold, µs per file"
	warmFind   = "find, warm, µs per file"
	clientPeak = "client, peak MiB"
	serverPeak = "server, peak MiB"
	callRate   = "calls per second"
	callP99    = "call, p99, ms"
	perClient  = "a client, peak MiB"
	readRate   = "MiB per second"
	slowest    = "slowest stream, part of the mean"
)

// site is where it is measured.
type site struct {
	o        *options
	dir, bin string
	made     int
}

// stand is a daemon with a new directory, and its mounts.
type stand struct {
	dir, tree string
	server    peers.Rpycfs
	mounts    []*peers.Mounted
}

// stand makes a directory to be exported.
func (s *site) stand() (*stand, error) {
	s.made++
	st := &stand{dir: filepath.Join(s.dir, fmt.Sprint("at", s.made))}
	st.tree = filepath.Join(st.dir, "tree")
	st.server = peers.Rpycfs{Bin: s.bin, State: st.dir, Tree: st.tree}
	return st, os.MkdirAll(st.tree, 0o755)
}

// mount adds a mount of a process of its own.
func (st *stand) mount(ctx context.Context) (*peers.Mounted, error) {
	st.server.Mnt = filepath.Join(st.dir, fmt.Sprint("mnt", len(st.mounts)))
	if err := os.Mkdir(st.server.Mnt, 0o755); err != nil {
		return nil, err
	}
	m, err := st.server.Mount(ctx)
	if err == nil {
		st.mounts = append(st.mounts, m)
	}
	return m, err
}

// end takes it all down.
func (st *stand) end() (err error) {
	errs := make([]error, len(st.mounts))
	var all sync.WaitGroup
	for i, m := range st.mounts {
		all.Go(func() { errs[i] = m.Unmount() })
	}
	all.Wait()
	st.server.Stop()
	return errors.Join(append(errs, os.RemoveAll(st.dir))...)
}

// peaks returns the most MiB that the daemon and a mount had in memory.
func (st *stand) peaks() (server, client float64) {
	for _, m := range st.mounts {
		client = max(client, peak(m.Proc))
	}
	return peak(st.server.Daemon()), client
}

func peak(p *peers.Process) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(status, []byte("\nVmHWM:"))
	kib, _ := strconv.ParseFloat(string(bytes.Fields(rest)[0]), 64)
	return kib / 1024
}

// perDir is how many entries a directory of the tree has.
const perDir = 100

// files walks a tree of n empty files, with new programs and empty caches, and then
// again.
func (s *site) files(ctx context.Context, n int) (p point, err error) {
	st, err := s.stand()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, st.end()) }()
	if err := makeTree(st.tree, n); err != nil {
		return p, err
	}
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0o200); err != nil {
		return p, err
	}
	m, err := st.mount(ctx)
	if err != nil {
		return p, err
	}
	took := func() (float64, error) {
		begin := time.Now()
		out, err := exec.CommandContext(ctx, "find", m.Dir, "-type", "f").Output()
		if found := bytes.Count(out, []byte("\n")); err == nil && found != n {
			err = fmt.Errorf("find finds %d files, not %d", found, n)
		}
		return float64(time.Since(begin).Microseconds()) / float64(n), err
	}
	cold, err := took()
	if err != nil {
		return p, err
	}
	var warm []float64
	for begin := time.Now(); len(warm) < 3 || time.Since(begin) < time.Second/2; {
		t, err := took()
		if err != nil {
			return p, err
		}
		warm = append(warm, t)
	}
	server, client := st.peaks()
	p.Values = values{{coldFind, cold}, {warmFind, runs.Median(warm)}, {clientPeak, client}, {serverPeak, server}}
	return p, nil
}

// makeTree makes n files in directories of perDir entries.
func makeTree(dir string, n int) error {
	for i := range n {
		at := filepath.Join(dir, strconv.Itoa(i/perDir/perDir), strconv.Itoa(i/perDir%perDir))
		if i%perDir == 0 {
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
		}
		f, err := os.Create(filepath.Join(at, strconv.Itoa(i%perDir)))
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clients has n mounts of one daemon set the times of a file each, as fast as they can.
func (s *site) clients(ctx context.Context, n int) (p point, err error) {
	st, err := s.stand()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, st.end()) }()
	var paths []string
	for i := range n {
		m, err := st.mount(ctx)
		if err != nil {
			return p, err
		}
		dir := filepath.Join(m.Dir, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return p, err
		}
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return p, err
		}
		paths = append(paths, path)
	}
	calls := make([][]time.Duration, n)
	begin := time.Now()
	err = runs.Parallel(n, func(i int) error {
		for k := int64(1); time.Since(begin) < s.o.each; k++ {
			at := time.Now()
			if err := os.Chtimes(paths[i], time.Unix(k, 0), time.Unix(k, 0)); err != nil {
				return err
			}
			calls[i] = append(calls[i], time.Since(at))
		}
		return ctx.Err()
	})
	took := time.Since(begin)
	if err != nil {
		return p, err
	}
	for i, path := range paths { // what the server has is what was said last
		info, err := os.Stat(filepath.Join(st.tree, strconv.Itoa(i), "f"))
		if err != nil {
			return p, err
		}
		if want := int64(len(calls[i])); info.ModTime().Unix() != want {
			return p, fmt.Errorf("%s has time %d on the server, not %d", path, info.ModTime().Unix(), want)
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(calls...)))
	server, client := st.peaks()
	p.Values = values{
		{callRate, float64(len(all)) / took.Seconds()}, {callP99, all[len(all)*99/100].Seconds() * 1000},
		{perClient, client}, {serverPeak, server},
	}
	return p, nil
}

// streams reads n files beside each other, from their beginnings to their ends.
func (s *site) streams(ctx context.Context, n int) (p point, err error) {
	st, err := s.stand()
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, st.end()) }()
	size := int64(max(1, s.o.mib/n)) << 20
	for i := range n {
		if err := writeLines(filepath.Join(st.tree, strconv.Itoa(i)), i, size); err != nil {
			return p, err
		}
	}
	syscall.Sync()
	m, err := st.mount(ctx)
	if err != nil {
		return p, err
	}
	rates := make([]float64, n)
	begin := time.Now()
	err = runs.Parallel(n, func(i int) error {
		at := time.Now()
		err := checkLines(filepath.Join(m.Dir, strconv.Itoa(i)), i, size)
		rates[i] = float64(size>>20) / time.Since(at).Seconds()
		return errors.Join(err, ctx.Err())
	})
	took := time.Since(begin)
	if err != nil {
		return p, err
	}
	mean := 0.
	for _, r := range rates {
		mean += r / float64(n)
	}
	server, client := st.peaks()
	p.Values = values{
		{readRate, float64(int64(n)*size>>20) / took.Seconds()}, {slowest, slices.Min(rates) / mean},
		{clientPeak, client}, {serverPeak, server},
	}
	return p, nil
}

// block is from where to where a file says which one it is, and where that is.
const block = 4 << 10

func writeLines(path string, file int, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	rest := strings.Repeat(".", block)
	for off := int64(0); off < size; off += block {
		n, _ := fmt.Fprintf(w, "%d %d\n", file, off)
		w.WriteString(rest[n:])
	}
	return errors.Join(w.Flush(), f.Close())
}

func checkLines(path string, file int, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		if _, err := io.ReadFull(f, buf); err != nil {
			return err
		}
		for i := 0; i < len(buf); i += block {
			if want := fmt.Sprintf("%d %d\n", file, off+int64(i)); !bytes.HasPrefix(buf[i:], []byte(want)) {
				return fmt.Errorf("%s has other content at %d than was written", path, off+int64(i))
			}
		}
	}
	return nil
}
