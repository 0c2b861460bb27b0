package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// closeTable is what processes do with a file that they have open for reading, and with
// its locks, in groups: A and C are on one machine, B is on another one and waits. Y
// has the file open for reading when A has closed it.
const closeTable = `
A open r   | A setlk r r 0 end | A close r         | C setlk x w 0 end | C setlk x u 0 end | A open r
A setlk r r 0 end              | A close r         | B setlkw x w 0 end | B setlk x u 0 end | A open r
A setlk x w 0 end              | A close r         | C setlk x w 0 end | C setlk x u 0 end | A open r
A setlk x w 0 end              | A close r         | B setlkw x w 0 end | B setlk x u 0 end | A open r
A dup r d  | A setlk r r 0 end | A close d         | C getlk x w 0 end | C setlk x w 0 end | C setlk x u 0 end
A dup r d  | A setlk x w 5 9   | A close d         | B setlkw x w 0 end | B setlk x u 0 end
A setlk r r 0 end | A close r  | A open r          | C setlk x w 0 end | C setlk x u 0 end
A setlk x w 0 9 | A close r    | A setlk x w 5 9   | C setlk x r 7 7   | C setlk x w 0 4   | B setlk x r 5 5 | C setlk x u 0 end | A setlk x u 0 end | A open r
A setlk r r 0 end | C setlk x w 0 end | B setlk x w 0 end | C setlk x r 0 0 | A setlk r u 0 end | C setlk x w 0 end | C setlk x u 0 end
A dup r d  | A ofd r r 0 end   | A close d         | C setlk x w 0 end | B setlk x w 0 end | A ofd r u 0 end   | C setlk x w 0 end | C setlk x u 0 end
A ofd x w 0 9 | A close r      | C setlk x w 0 9   | C setlk x w 10 19 | A ofd x u 0 end   | B setlk x w 0 9   | B setlk x u 0 end | C setlk x u 0 end | A open r
A setlk r r 0 9 | Y takes r    | A close r         | C setlk x w 0 end | C setlk x u 0 end | Y drops           | A open r
A setlk r r 0 9 | Y takes r    | A end             | B setlkw x w 0 end | B setlk x u 0 end | Y drops
`

// TestLockQuietClose: files that are open for reading are closed without a word to the
// file system, and their locks end as on a plain directory.
func TestLockQuietClose(t *testing.T) {
	w := newLockWorld(t)
	plain := filepath.Join(w.dir, "plain")
	must(t, os.Mkdir(plain, 0o755))
	must(t, os.WriteFile(filepath.Join(plain, "f"), nil, 0o644))
	is, ought := newCloser(w, w.a, w.b), newCloser(w, plain, plain)
	for line := range strings.FieldsFuncSeq(closeTable, func(r rune) bool { return r == '\n' || r == '|' }) {
		if got, want := is.step(line), ought.step(line); got != want {
			t.Errorf("%s: %s; on a plain directory: %s", strings.TrimSpace(line), got, want)
		}
	}
	before := w.status().Requests
	for range 5 {
		_, err := os.ReadFile(filepath.Join(w.a, "f"))
		must(t, err)
	}
	if after := w.status().Requests; after["open"].Count < before["open"].Count+5 || after["flush"] != before["flush"] {
		t.Errorf("five files that were opened for reading: opens %v, flushes %v; before: %v, %v",
			after["open"], after["flush"], before["open"], before["flush"])
	}
}

// closer are the processes of a closeTable.
type closer struct {
	w     *lockWorld
	file  string
	who   map[string]*locker
	taken int // Y's descriptor
}

func newCloser(w *lockWorld, here, there string) *closer {
	c := &closer{w: w, file: filepath.Join(here, "f"), who: map[string]*locker{}}
	for _, who := range []string{"A", "C"} {
		c.who[who] = w.opened(here)
	}
	c.who["B"] = w.opened(there)
	return c
}

// step does a step of the table and returns its result, but for process numbers.
func (c *closer) step(line string) string {
	c.w.t.Helper()
	who, command, _ := strings.Cut(strings.TrimSpace(line), " ")
	a := c.who["A"]
	switch strings.Join([]string{who, command}, " ") {
	case "A open r":
		return a.do("open r %d %s", os.O_RDONLY, c.file)
	case "A end":
		a.end()
		return "ok"
	case "Y takes r": // as a child inherits it
		fd, err := strconv.Atoi(a.do("number r"))
		must(c.w.t, err)
		process, err := unix.PidfdOpen(a.cmd.Process.Pid, 0)
		must(c.w.t, err)
		defer unix.Close(process)
		c.taken, err = unix.PidfdGetfd(process, fd, 0)
		must(c.w.t, err)
		return "ok"
	case "Y drops":
		return result(unix.Close(c.taken))
	}
	got := c.who[who].do("%s", command)
	got, _, _ = strings.Cut(got, " pid ")
	return got
}
