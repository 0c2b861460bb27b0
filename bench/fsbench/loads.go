package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	mib      = 1 << 20
	page     = 4 << 10
	smallLen = page // bytes of a small file
)

// Names in the exported tree.
const (
	bigName  = "big"   // the file that is read
	newName  = "new"   // the file that is written
	treeName = "tree"  // the tree that is listed
	madeName = "small" // the directory in which small files are made
)

const bigSeed = 0x5eed

// loads are the workloads on one exported tree. backing is the tree itself, on
// the server's disk.
type loads struct {
	backing          string
	size             int64 // bytes of the big files
	reads            int   // random reads per thread
	small            int   // small files made
	dirs, filesInDir int   // shape of the listed tree
}

// prepare makes what is read and listed.
func (l *loads) prepare() error {
	if err := writeFile(filepath.Join(l.backing, bigName), bigSeed, l.size); err != nil {
		return err
	}
	for d := range l.dirs {
		dir := filepath.Join(l.backing, treeName, fmt.Sprintf("dir%03d", d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for f := range l.filesInDir {
			name := filepath.Join(dir, fmt.Sprintf("file%04d", f))
			if err := os.WriteFile(name, []byte(name), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// load is one workload: before runs on the backing tree with everything
// unmounted, run on the mounted one with the clock running (it returns how many
// units it did), after on the backing tree again to check what arrived.
type load struct {
	name, unit string
	warm       bool // the server has what is read in its page cache
	before     func() error
	run        func(dir string) (float64, error)
	after      func() error
}

// all returns the workloads.
func (l *loads) all() []load {
	reading := func(name, unit string, warm bool, run func(string) (float64, error)) load {
		return load{name: name, unit: unit, warm: warm, before: nothing, run: run, after: nothing}
	}
	random := func(threads int) func(string) (float64, error) {
		return func(dir string) (float64, error) { return l.readRandom(dir, threads) }
	}
	return []load{
		reading(rowRead, "MiB/s", false, l.readAll),
		reading(rowReadWarm, "MiB/s", true, l.readAll),
		{rowWrite, "MiB/s", false, l.removeNew, l.writeNew, l.checkNew},
		reading(rowRandom1, "reads/s", false, random(1)),
		reading(rowRandom16, "reads/s", false, random(16)),
		reading(rowRandom1Warm, "reads/s", true, random(1)),
		reading(rowRandom16Warm, "reads/s", true, random(16)),
		{rowCreate, "files/s", false, l.removeSmall, l.makeSmall, l.checkSmall},
		reading(rowList, "files/s", false, l.list),
		reading(rowListWarm, "files/s", true, l.list),
	}
}

func nothing() error { return nil }

// warmUp brings what the workloads read into the server's page cache.
func (l *loads) warmUp() error {
	if err := checkFile(filepath.Join(l.backing, bigName), bigSeed, l.size, page); err != nil {
		return err
	}
	_, err := l.list(l.backing)
	return err
}

func (l *loads) readAll(dir string) (float64, error) {
	return float64(l.size) / mib, checkFile(filepath.Join(dir, bigName), bigSeed, l.size, line)
}

// readRandom reads aligned pages of the big file, l.reads per thread.
func (l *loads) readRandom(dir string, threads int) (float64, error) {
	f, err := os.Open(filepath.Join(dir, bigName))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	seed := uint64(time.Now().UnixNano())
	errs := make([]error, threads)
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range threads {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			buf := make([]byte, page)
			for range l.reads {
				off := r.Int64N(l.size/page) * page
				if _, errs[i] = f.ReadAt(buf, off); errs[i] == nil {
					errs[i] = check(buf, bigSeed, off, line)
				}
				if errs[i] != nil {
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()), errors.Join(errs...)
}

func (l *loads) newFile() string { return filepath.Join(l.backing, newName) }

func (l *loads) removeNew() error { return os.RemoveAll(l.newFile()) }

func (l *loads) writeNew(dir string) (float64, error) {
	return float64(l.size) / mib, writeFile(filepath.Join(dir, newName), bigSeed+1, l.size)
}

func (l *loads) checkNew() error { return checkFile(l.newFile(), bigSeed+1, l.size, word) }

func (l *loads) smallDir() string { return filepath.Join(l.backing, madeName) }

func (l *loads) removeSmall() error {
	if err := os.RemoveAll(l.smallDir()); err != nil {
		return err
	}
	return os.Mkdir(l.smallDir(), 0o755)
}

func (l *loads) makeSmall(dir string) (float64, error) {
	buf := make([]byte, smallLen)
	for i := range l.small {
		fill(buf, uint64(i), 0)
		name := filepath.Join(dir, madeName, fmt.Sprintf("file%05d", i))
		if err := makeFile(name, buf); err != nil {
			return 0, err
		}
	}
	return float64(l.small), nil
}

func makeFile(name string, p []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(p)
	return errors.Join(err, f.Close())
}

func (l *loads) checkSmall() error {
	entries, err := os.ReadDir(l.smallDir())
	if err != nil {
		return err
	}
	if len(entries) != l.small {
		return fmt.Errorf("%d small files, want %d", len(entries), l.small)
	}
	for i, e := range entries { // sorted by name
		if err := checkFile(filepath.Join(l.smallDir(), e.Name()), uint64(i), smallLen, word); err != nil {
			return err
		}
	}
	return nil
}

// list runs ls -lR and counts the regular files in its answer.
func (l *loads) list(dir string) (float64, error) {
	cmd := exec.Command("ls", "-lR", filepath.Join(dir, treeName))
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	text, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return 0, err
	}
	n, want := bytes.Count(text, []byte("\n-rw-r--r-- ")), l.dirs*l.filesInDir
	if n != want {
		return 0, fmt.Errorf("ls -lR lists %d files, want %d", n, want)
	}
	return float64(n), nil
}
