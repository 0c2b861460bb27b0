package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rpycfs/rpycfs/bench/internal/runs"
)

const (
	mib      = 1 << 20
	page     = 4 << 10
	smallLen = page // bytes of a small file
)

// Names below the directory of the loads.
const (
	bigName    = "big"     // the file that is read
	newName    = "new"     // the file that is written
	treeName   = "tree"    // real files
	gitName    = "git"     // what git knows of them
	listName   = "list"    // the directory that is listed
	madeName   = "small"   // the directory in which small files are made
	callName   = "touched" // the file whose times are changed
	asideName  = "aside"   // what cells before have made
	untarName  = "untar"
	cloneName  = "clone"
	doomedName = "doomed"
	moduleName = "module"
	dbName     = "db"
)

const bigSeed = 0x5eed

// sizes say how much is done.
type sizes struct {
	bytes   int64 // of the big files
	reads   int   // random reads per thread
	small   int   // small files made
	listed  int   // entries of the listed directory
	files   int   // of the tree, at most
	modules int   // packages of the module
	inserts int
	seed    uint64
	source  string // the tree is a copy of this one
}

// part returns a smaller amount; what is measured by the byte stays.
func (s sizes) part(n int) sizes {
	for _, v := range []*int{&s.reads, &s.small, &s.listed, &s.files, &s.modules, &s.inserts} {
		*v = max(1, *v/n)
	}
	return s
}

// loads are the workloads in one directory, name, of the exported tree, which is
// backing on the server's disk. away is on the client's.
type loads struct {
	sizes
	backing, name, away string

	tree    *tree
	matches []byte // what grep finds
	prints  string // by the module's program
}

func (l *loads) path(names ...string) string {
	return filepath.Join(l.backing, l.name, filepath.Join(names...))
}

// in returns the path of something in a mount of the tree.
func (l *loads) in(mnt string, names ...string) string {
	return filepath.Join(mnt, l.name, filepath.Join(names...))
}

// prepare makes what is read and listed.
func (l *loads) prepare() error {
	for _, dir := range []string{l.away, l.path(treeName), l.path(listName)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := writeFile(l.path(bigName), bigSeed, l.bytes); err != nil {
		return err
	}
	for i := range l.listed {
		if err := os.WriteFile(l.path(listName, fmt.Sprintf("file%06d", i)), nil, 0o644); err != nil {
			return err
		}
	}
	if err := write(l.path(callName), ""); err != nil {
		return err
	}
	var err error
	if l.tree, err = copyTree(l.source, l.path(treeName), l.files, l.seed); err != nil {
		return err
	}
	if l.prints, err = writeModule(l.path(moduleName), l.modules, l.seed); err != nil {
		return err
	}
	return l.preparePrograms()
}

// load is one workload: before runs on the backing tree with everything
// unmounted, run on the mounted one with the clock running (it returns how many
// units it did), after on the backing tree again to check what arrived.
type load struct {
	name, unit string
	warm       func() error // what the server does itself before; nil: nothing
	again      string       // the row of the same thing once more on the same mount; "": none
	before     func() error
	run        func(mnt string) (float64, error)
	after      func() error
	// whole is how many times the full amount is what this load does; 1 for what is
	// measured as a rate.
	whole float64
	bulk  int64 // a stream of so many bytes is its limit; 0: it is none
	up    bool  // the stream goes to the server
	value bool  // run returns the figure itself
}

// byBytes reports whether the amount is that of the big files.
func (l *load) byBytes() bool { return l.unit != unitTime }

// fits reports whether the expression fits "link/row/peer" of the load or of what
// is done again.
func (l *load) fits(k *link, peer string, e *regexp.Regexp) bool {
	return e.MatchString(k.name+"/"+l.name+"/"+peer) || l.again != "" && e.MatchString(k.name+"/"+l.again+"/"+peer)
}

// all returns the workloads; full are those of which these are a part.
func (l *loads) all(full *loads) []load {
	whole := func(n, all int) float64 { return float64(all) / float64(n) }
	files, dirs := whole(len(l.tree.entries), len(full.tree.entries)), whole(l.tree.dirs, full.tree.dirs)
	random := func(name string, threads int, warm func() error) load {
		return load{name: name, unit: unitReads, warm: warm, run: func(mnt string) (float64, error) { return l.readRandom(mnt, threads) }}
	}
	create := func(name string, threads int) load {
		return load{name: name, unit: unitTime, whole: whole(l.small, full.small), before: l.moveSmall, after: l.checkSmall,
			run: func(mnt string) (float64, error) { return l.makeSmall(mnt, threads) }}
	}
	ofTree := func(name, again string, run func(string) error, before, after func() error) load {
		all := files
		if name == rowFind {
			all = dirs
		}
		return load{name: name, unit: unitTime, again: again, whole: all, before: before, after: after,
			run: func(mnt string) (float64, error) { return float64(len(l.tree.entries)), run(mnt) }}
	}
	all := []load{
		{name: rowRead, unit: unitMiB, again: rowReadWarm, run: l.readAll, bulk: l.bytes},
		{name: rowReadServer, unit: unitMiB, warm: l.warmUp, run: l.readAll},
		{name: rowWrite, unit: unitMiB, before: l.removeNew, run: l.writeNew, after: l.checkNew, bulk: l.bytes, up: true},
		random(rowRandom1, 1, nil),
		random(rowRandom16, 16, nil),
		random(rowRandom1Warm, 1, l.warmUp),
		random(rowRandom16Warm, 16, l.warmUp),
		create(rowCreate1, 1),
		create(rowCreate16, 16),
		ofTree(rowStat, rowStatWarm, l.stat, nil, nil),
		{name: rowList, unit: unitTime, again: rowListWarm, run: l.list, whole: whole(l.listed, full.listed)},
		ofTree(rowFind, rowFindWarm, l.find, nil, nil),
		ofTree(rowGrep, rowGrepWarm, l.grep, nil, nil),
		ofTree(rowStatus, rowStatusWarm, l.status, l.restoreIndex, nil),
		ofTree(rowCopy, "", l.copyOut, l.removeCopy, l.checkCopy),
		ofTree(rowUntar, "", l.untar, l.mover(untarName), func() error { return l.tree.same(l.path(untarName)) }),
		ofTree(rowClone, "", l.clone, l.mover(cloneName), func() error { return l.tree.same(l.path(cloneName)) }),
		ofTree(rowRemove, "", l.remove, l.makeDoomed, l.checkRemoved),
		{name: rowBuild, unit: unitTime, whole: whole(l.modules, full.modules), before: l.cleanBuild, run: l.build, after: l.checkBuilt},
		{name: rowSQLite, unit: unitTime, whole: whole(l.inserts, full.inserts), before: l.removeDB, run: l.insert, after: l.checkDB},
		{name: rowCall, unit: unitMillis, value: true, run: l.callBeside},
	}
	for i := range all {
		if all[i].whole == 0 {
			all[i].whole = 1
		}
	}
	return all
}

// mover returns a function that moves a directory aside and makes it anew. It is not
// removed: ext4 does not use inodes that were removed in the last minutes, and looks at
// each of them for every file that it makes. That can take longer than all the rest, and
// depends on who was measured before.
func (l *loads) mover(name string) func() error {
	return func() error {
		if err := os.MkdirAll(l.path(asideName), 0o755); err != nil {
			return err
		}
		aside, err := os.MkdirTemp(l.path(asideName), name)
		if err != nil {
			return err
		}
		if err := os.Rename(l.path(name), filepath.Join(aside, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Mkdir(l.path(name), 0o755)
	}
}

// warmUp brings the big file into the server's page cache.
func (l *loads) warmUp() error { return checkFile(l.path(bigName), bigSeed, l.bytes, page) }

func (l *loads) readAll(mnt string) (float64, error) {
	return float64(l.bytes) / mib, checkFile(l.in(mnt, bigName), bigSeed, l.bytes, line)
}

// readRandom reads aligned pages of the big file, l.reads per thread.
func (l *loads) readRandom(mnt string, threads int) (float64, error) {
	f, err := os.Open(l.in(mnt, bigName))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var done atomic.Int64
	err = runs.Parallel(threads, func(i int) error {
		r := rand.New(rand.NewPCG(l.seed, uint64(i)))
		buf := make([]byte, page)
		for range l.reads {
			off := r.Int64N(l.bytes/page) * page
			if _, err := f.ReadAt(buf, off); err != nil {
				return err
			}
			if err := check(buf, bigSeed, off, line); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
	return float64(done.Load()), err
}

func (l *loads) removeNew() error { return os.RemoveAll(l.path(newName)) }

func (l *loads) writeNew(mnt string) (float64, error) {
	return float64(l.bytes) / mib, writeFile(l.in(mnt, newName), bigSeed+1, l.bytes)
}

func (l *loads) checkNew() error { return checkFile(l.path(newName), bigSeed+1, l.bytes, word) }

func (l *loads) moveSmall() error { return l.mover(madeName)() }

func (l *loads) makeSmall(mnt string, threads int) (float64, error) {
	return float64(l.small), runs.Parallel(threads, func(thread int) error {
		buf := make([]byte, smallLen)
		for i := thread; i < l.small; i += threads {
			fill(buf, uint64(i), 0)
			if err := makeFile(l.in(mnt, madeName, fmt.Sprintf("file%06d", i)), buf); err != nil {
				return err
			}
		}
		return nil
	})
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
	entries, err := os.ReadDir(l.path(madeName))
	if err != nil {
		return err
	}
	if len(entries) != l.small {
		return fmt.Errorf("%d small files, want %d", len(entries), l.small)
	}
	for i, e := range entries { // sorted by name
		if err := checkFile(l.path(madeName, e.Name()), uint64(i), smallLen, word); err != nil {
			return err
		}
	}
	return nil
}

// stat asks for the attributes of every file of the tree.
func (l *loads) stat(mnt string) error {
	var st syscall.Stat_t
	for _, e := range l.tree.entries {
		if err := syscall.Lstat(l.in(mnt, treeName, e.name), &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: e.name, Err: err}
		}
		if st.Size != e.size {
			return fmt.Errorf("%s has %d bytes, want %d", e.name, st.Size, e.size)
		}
	}
	return nil
}

// callBeside returns the 99th percentile, in milliseconds, of how long a change of
// a file's times takes while four threads read a quarter of the big file each.
func (l *loads) callBeside(mnt string) (float64, error) {
	f, err := os.Open(l.in(mnt, bigName))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var reading atomic.Int32
	const readers = 4
	reading.Store(readers)
	var took []time.Duration
	err = runs.Parallel(readers+1, func(i int) error {
		if i < readers {
			defer reading.Add(-1)
			return l.readPart(f, l.bytes/readers/page*page, i)
		}
		for n := int64(0); reading.Load() > 0; n++ {
			begin := time.Now()
			if err := os.Chtimes(l.in(mnt, callName), time.Unix(n, 0), time.Unix(n, 0)); err != nil {
				return err
			}
			took = append(took, time.Since(begin))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	slices.Sort(took)
	return took[len(took)*99/100].Seconds() * 1000, nil
}

// readPart reads the i-th part of n bytes.
func (l *loads) readPart(f *os.File, n int64, i int) error {
	buf := make([]byte, mib)
	for off := n * int64(i); off < n*int64(i+1); {
		k, err := f.ReadAt(buf[:min(mib, n*int64(i+1)-off)], off)
		if err == nil {
			err = check(buf[:k], bigSeed, off, line)
		}
		if err != nil {
			return err
		}
		off += int64(k)
	}
	return nil
}
