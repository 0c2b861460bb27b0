package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
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
	gitName  = "git"   // what git knows of that tree
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
	for _, args := range [][]string{
		{"init", "--quiet"}, {"add", "--all"}, {"-c", "user.name=bench", "-c", "user.email=bench", "commit", "--quiet", "--message=tree"},
	} {
		if err := l.command(l.backing, 0, "git", l.git(l.backing, args...)...); err != nil {
			return err
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
	again      bool // the client has done it before, on the same mount
	before     func() error
	run        func(dir string) (float64, error)
	after      func() error
}

// all returns the workloads.
func (l *loads) all() []load {
	reading := func(name, unit string, warm bool, run func(string) (float64, error)) load {
		return load{name: name, unit: unit, warm: warm, before: nothing, run: run, after: nothing}
	}
	again := func(name string, run func(string) (float64, error)) load {
		return load{name: name, unit: "files/s", again: true, before: nothing, after: nothing, run: func(dir string) (sum float64, err error) {
			for begin := time.Now(); time.Since(begin) < atLeast; {
				files, err := run(dir)
				if err != nil {
					return 0, err
				}
				sum += files
			}
			return sum, nil
		}}
	}
	random := func(threads int) func(string) (float64, error) {
		return func(dir string) (float64, error) { return l.readRandom(dir, threads) }
	}
	return []load{
		reading(rowRead, "MiB/s", false, l.readAll),
		reading(rowReadWarm, "MiB/s", true, l.readAll),
		{name: rowWrite, unit: "MiB/s", before: l.removeNew, run: l.writeNew, after: l.checkNew},
		reading(rowRandom1, "reads/s", false, random(1)),
		reading(rowRandom16, "reads/s", false, random(16)),
		reading(rowRandom1Warm, "reads/s", true, random(1)),
		reading(rowRandom16Warm, "reads/s", true, random(16)),
		{name: rowCreate, unit: "files/s", before: l.removeSmall, run: l.makeSmall, after: l.checkSmall},
		reading(rowList, "files/s", false, l.list),
		reading(rowListWarm, "files/s", true, l.list),
		again(rowStatAgain, l.stat),
		again(rowFindAgain, l.find),
		again(rowListAgain, l.list),
		again(rowGitAgain, l.status),
		again(rowGrepAgain, l.grep),
	}
}

// atLeast is how long the clock runs for what is done again; once is over too soon.
const atLeast = time.Second

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

// files is how many files the tree has.
func (l *loads) files() float64 { return float64(l.dirs * l.filesInDir) }

// stat asks for the attributes of every file of the tree.
func (l *loads) stat(dir string) (float64, error) {
	var st syscall.Stat_t
	for d := range l.dirs {
		for f := range l.filesInDir {
			name := filepath.Join(dir, treeName, fmt.Sprintf("dir%03d", d), fmt.Sprintf("file%04d", f))
			if err := syscall.Lstat(name, &st); err != nil {
				return 0, err
			}
		}
	}
	return l.files(), nil
}

func (l *loads) find(dir string) (float64, error) {
	return l.files(), l.command(dir, 0, "find", filepath.Join(dir, treeName))
}

func (l *loads) status(dir string) (float64, error) {
	return l.files(), l.command(dir, 0, "git", l.git(dir, "status", "--porcelain")...)
}

// grep looks for what no file has.
func (l *loads) grep(dir string) (float64, error) {
	return l.files(), l.command(dir, 1, "grep", "-r", "no file has this", filepath.Join(dir, treeName))
}

// git returns the arguments for a command of git over the tree.
func (l *loads) git(dir string, args ...string) []string {
	return append([]string{"-c", "safe.directory=*", "--git-dir=" + filepath.Join(dir, gitName), "--work-tree=" + filepath.Join(dir, treeName)}, args...)
}

// command runs a program in dir and wants it to exit with code.
func (l *loads) command(dir string, code int, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		return fmt.Errorf("%s: %w\n%s", cmd, cmp.Or(err, errors.New("it has found something")), &said)
	}
	return nil
}
