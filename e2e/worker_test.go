package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// writerEnv makes the test binary write to the file that it names until that
// fails; it prints how many bytes were written, and the error.
const writerEnv = "RPYCFS_E2E_WRITER"

func writerMain() int {
	f, err := os.Create(os.Getenv(writerEnv))
	if err != nil {
		fmt.Println(0, err)
		return 1
	}
	written := 0
	for block := make([]byte, 64<<10); err == nil; {
		var n int
		n, err = f.Write(block)
		written += n
	}
	fmt.Println(written, err)
	return 1
}

// worker knows what every file of its directory holds.
type worker struct {
	dir   string
	rand  *rand.Rand
	files map[string][]byte
	named int // names given so far
}

func (w *worker) work(end time.Time) (int, error) {
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		return 0, err
	}
	steps := 0
	for ; time.Now().Before(end); steps++ {
		if err := w.step(); err != nil {
			return steps, err
		}
	}
	return steps, w.checkAll()
}

func (w *worker) step() error {
	if len(w.files) < 4 {
		return w.create()
	}
	name := w.pick()
	switch w.rand.IntN(10) {
	case 0:
		return w.create()
	case 1:
		return w.rename(name)
	case 2:
		if len(w.files) < 12 {
			return w.create()
		}
		delete(w.files, name)
		return os.Remove(filepath.Join(w.dir, name))
	case 3:
		return w.appendTo(name)
	case 4:
		return w.overwrite(name)
	case 5:
		return w.truncate(name)
	case 6:
		return w.checkListing()
	default:
		return w.check(name)
	}
}

// pick returns one of the files.
func (w *worker) pick() string {
	names := slices.Sorted(maps.Keys(w.files))
	return names[w.rand.IntN(len(names))]
}

func (w *worker) newName() string {
	w.named++
	return "file-" + strconv.Itoa(w.named)
}

func (w *worker) content() []byte {
	b := make([]byte, w.rand.IntN(1+w.rand.IntN(300_000)))
	for i := range b {
		b[i] = byte(w.rand.Uint32())
	}
	return b
}

// create makes a file that must not exist yet; done twice it would fail.
func (w *worker) create() error {
	name, content := w.newName(), w.content()
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w.files[name] = content
	return writeAll(f, content, w.rand.IntN(4) == 0)
}

func writeAll(f *os.File, content []byte, sync bool) error {
	_, err := f.Write(content)
	if err == nil && sync {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// appendTo adds to the end; done twice it would show.
func (w *worker) appendTo(name string) error {
	more := w.content()
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	w.files[name] = append(slices.Clone(w.files[name]), more...)
	if len(w.files[name]) > 1<<20 {
		f.Close()
		w.files[name] = nil
		return os.Truncate(filepath.Join(w.dir, name), 0)
	}
	return writeAll(f, more, false)
}

// overwrite changes a part in the middle.
func (w *worker) overwrite(name string) error {
	content := slices.Clone(w.files[name])
	if len(content) == 0 {
		return w.check(name)
	}
	at := w.rand.IntN(len(content))
	part := w.content()
	part = part[:min(len(part), len(content)-at)]
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	copy(content[at:], part)
	w.files[name] = content
	if _, err := f.WriteAt(part, int64(at)); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (w *worker) truncate(name string) error {
	size := w.rand.IntN(len(w.files[name]) + 5000)
	content := make([]byte, size)
	copy(content, w.files[name])
	w.files[name] = content
	return os.Truncate(filepath.Join(w.dir, name), int64(size))
}

func (w *worker) rename(name string) error {
	to := w.newName()
	w.files[to] = w.files[name]
	delete(w.files, name)
	return os.Rename(filepath.Join(w.dir, name), filepath.Join(w.dir, to))
}

// check compares a file with what it must hold.
func (w *worker) check(name string) error {
	f, err := os.Open(filepath.Join(w.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if want := w.files[name]; !bytes.Equal(got, want) {
		return fmt.Errorf("%s: read %d bytes, not the %d written, or different ones", name, len(got), len(want))
	}
	return nil
}

func (w *worker) checkListing() error {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return err
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := slices.Sorted(maps.Keys(w.files))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("the directory lists %s, not %s", strings.Join(got, " "), strings.Join(want, " "))
	}
	return nil
}

func (w *worker) checkAll() error {
	for _, name := range slices.Sorted(maps.Keys(w.files)) {
		if err := w.check(name); err != nil {
			return err
		}
	}
	return w.checkListing()
}
