package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// delaying is a world with a mount behind a proxy, which may stand still, and another
// mount beside it.
type delaying struct {
	*world
	proxy *proxy
	other string
}

func newDelaying(t *testing.T, prepare ...func(w *world)) *delaying {
	t.Helper()
	needFUSE(t)
	w := newWorld(t)
	for _, f := range prepare {
		f(w)
	}
	w.serve()
	d := &delaying{world: w, proxy: newProxy(t, w.port, false), other: filepath.Join(w.dir, "other")}
	must(t, os.Mkdir(d.other, 0o755))
	w.mountAt(d.proxy.port, "/", w.mnt)
	w.mountAt(w.port, "/", d.other)
	return d
}

// stands runs what has to end while nothing passes between mount and daemon. It should not
// take long: the mount gives up a connection that is silent, and then delays nothing more.
func (d *delaying) stands(do func()) {
	d.proxy.stall(true)
	release := sync.OnceFunc(func() { d.proxy.stall(false) })
	defer release()
	late := time.AfterFunc(patience, func() {
		d.t.Error("it does not end while nothing passes")
		release()
	})
	defer late.Stop()
	do()
}

// new makes a file by the mount and leaves it open.
func (d *delaying) new(name string) *os.File {
	d.t.Helper()
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	must(d.t, err)
	d.t.Cleanup(func() { f.Close() })
	return f
}

// pattern is data of which every part tells where it belongs.
func pattern(n int) []byte {
	data := make([]byte, 0, n+16)
	for len(data) < n {
		data = fmt.Appendf(data, "%d\n", len(data))
	}
	return data[:n]
}

// TestDelayedIsSeen: what a program has written or set is answered without the daemon,
// and whoever looks by another mount sees all of it.
func TestDelayedIsSeen(t *testing.T) {
	d := newDelaying(t)
	data := pattern(3<<20 + 17)
	then := time.Unix(1_000_000_000, 0)
	inOther := func(name string) string { return filepath.Join(d.other, name) }
	size := func(i os.FileInfo, err error) string {
		switch {
		case err != nil:
			return err.Error()
		case i.Size() != int64(len(data)) || i.Mode().Perm() != 0o640 || !i.ModTime().Equal(then):
			return fmt.Sprint(i.Size(), i.Mode(), i.ModTime())
		}
		return ""
	}
	for name, look := range map[string]func(name string) string{
		"stat": func(name string) string { return size(os.Stat(inOther(name))) },
		"open": func(name string) string {
			f, err := os.Open(inOther(name))
			if err != nil {
				return err.Error()
			}
			defer f.Close()
			return size(f.Stat())
		},
		"read": func(name string) string {
			got, err := os.ReadFile(inOther(name))
			if err == nil && !bytes.Equal(got, data) {
				err = fmt.Errorf("%d bytes, or others", len(got))
			}
			return errText(err)
		},
		"list": func(name string) string {
			entries, err := os.ReadDir(d.other)
			if err != nil {
				return err.Error()
			}
			for _, e := range entries {
				if e.Name() == name {
					return size(e.Info())
				}
			}
			return "not listed"
		},
		"rename": func(name string) string {
			if err := os.Rename(inOther(name), inOther("renamed")); err != nil {
				return err.Error()
			}
			return size(os.Stat(inOther("renamed")))
		},
		"write": func(name string) string {
			f, err := os.OpenFile(inOther(name), os.O_RDWR, 0)
			if err != nil {
				return err.Error()
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("!"), int64(len(data))); err != nil {
				return err.Error()
			}
			got, err := os.ReadFile(inOther(name))
			if err == nil && string(got) != string(data)+"!" {
				err = fmt.Errorf("%d bytes, or others", len(got))
			}
			return errText(err)
		},
		"truncate": func(name string) string {
			if err := os.Truncate(inOther(name), 1000); err != nil {
				return err.Error()
			}
			got, err := os.ReadFile(inOther(name))
			if err == nil && !bytes.Equal(got, data[:1000]) {
				err = fmt.Errorf("%d bytes, or others", len(got))
			}
			return errText(err)
		},
		"create": func(name string) string {
			f, err := os.OpenFile(inOther(name), os.O_RDONLY|os.O_CREATE, 0o600)
			if err != nil {
				return err.Error()
			}
			defer f.Close()
			return size(f.Stat())
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := d.new("file-" + name)
			seen := make(chan string)
			d.stands(func() {
				_, err := f.Write(data)
				must(t, errors.Join(err, f.Chmod(0o640), os.Chtimes(f.Name(), then, then)))
				go func() { seen <- look("file-" + name) }()
			})
			if wrong := <-seen; wrong != "" {
				t.Error(wrong)
			}
			must(t, f.Close())
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestDelayedHere: the mount itself sees what it has not sent yet, and close and fsync
// wait for it.
func TestDelayedHere(t *testing.T) {
	d := newDelaying(t)
	data := pattern(2 << 20)
	for name, look := range map[string]func(f *os.File) error{
		"stat": func(f *os.File) error {
			i, err := os.Stat(f.Name())
			if err == nil && i.Size() != int64(len(data)) {
				err = fmt.Errorf("%d bytes", i.Size())
			}
			return err
		},
		"read": func(f *os.File) error { return fileIs(f.Name(), data) },
		"list": func(f *os.File) error {
			_, err := os.ReadDir(d.mnt)
			return errors.Join(err, fileIs(f.Name(), data))
		},
		"link": func(f *os.File) error {
			return errors.Join(os.Link(f.Name(), f.Name()+"~"), fileIs(f.Name()+"~", data))
		},
		"append": func(f *os.File) error {
			a, err := os.OpenFile(f.Name(), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = a.WriteString("!")
			return errors.Join(err, a.Close(), fileIs(f.Name(), append(bytes.Clone(data), '!')))
		},
		"truncate": func(f *os.File) error {
			_, err := f.WriteAt([]byte("?"), 0)
			return errors.Join(err, f.Truncate(5000), fileIs(f.Name(), append([]byte("?"), data[1:5000]...)))
		},
		"fsync": func(f *os.File) error {
			return errors.Join(f.Sync(), fileIs(filepath.Join(d.export, filepath.Base(f.Name())), data))
		},
		"close": func(f *os.File) error {
			return errors.Join(f.Close(), fileIs(filepath.Join(d.export, filepath.Base(f.Name())), data))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := d.new("here-" + name)
			ended := make(chan error)
			d.stands(func() {
				_, err := f.Write(data)
				must(t, err)
				go func() { ended <- look(f) }()
			})
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func fileIs(path string, want []byte) error {
	got, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s has %d bytes and should %d, or others", path, len(got), len(want))
	}
	return err
}

// writer is a program that has made a file by the mount. A daemon cannot be started while
// this process has one open with something on its way: the child closes it.
func (d *delaying) writer(name string) (does func(what string) string) {
	d.t.Helper()
	self, err := os.Executable()
	must(d.t, err)
	cmd := d.command(self)
	cmd.Env = append(d.env(), jobEnv+"=write "+d.path(name))
	in, err := cmd.StdinPipe()
	must(d.t, err)
	out, err := cmd.StdoutPipe()
	must(d.t, err)
	must(d.t, cmd.Start())
	d.t.Cleanup(func() {
		in.Close()
		must(d.t, cmd.Wait())
	})
	answers := bufio.NewScanner(out)
	answers.Scan()
	return func(what string) string {
		d.t.Helper()
		fmt.Fprintln(in, what)
		if !answers.Scan() {
			d.t.Fatalf("%s: %v", what, answers.Err())
		}
		return answers.Text()
	}
}

// writeJob makes a file and does with it what it reads: write (4 MiB of pattern), more,
// chmod, sync, close. It prints the error number of each.
func writeJob(args []string) error {
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	data := pattern(4 << 20)
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "write":
			_, err = f.Write(data)
		case "more":
			_, err = f.WriteString("more")
		case "chmod":
			err = f.Chmod(0o640)
		case "sync":
			err = f.Sync()
		case "close":
			err = f.Close()
		}
		var errno syscall.Errno
		errors.As(err, &errno)
		fmt.Println(int(errno))
	}
	return nil
}

// TestDelayedArrives: what was answered arrives, once, over a connection that is cut and
// a daemon that is killed, and whoever loses the leases meanwhile.
func TestDelayedArrives(t *testing.T) {
	for name, trouble := range map[string]func(d *delaying){
		"cut":    func(d *delaying) { d.proxy.cut() },
		"killed": func(d *delaying) { d.kill() },
		"fenced": func(d *delaying) { d.proxy.block(true) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDelaying(t)
			does := d.writer("file")
			do := func(all ...string) {
				t.Helper()
				for _, what := range all {
					if errno := does(what); errno != "0" {
						t.Errorf("%s: error %s", what, errno)
					}
				}
			}
			d.stands(func() {
				do("write", "chmod")
				trouble(d)
			})
			if name == "fenced" { // others do not wait for it
				_, err := os.Stat(filepath.Join(d.other, "file"))
				must(t, err)
				d.proxy.block(false)
			}
			do("more", "close")
			must(t, fileIs(filepath.Join(d.export, "file"), append(pattern(4<<20), "more"...)))
			i, err := os.Stat(filepath.Join(d.other, "file"))
			must(t, err)
			if i.Mode().Perm() != 0o640 || i.Size() != 4<<20+4 {
				t.Error(i.Mode(), i.Size())
			}
		})
	}
}

// TestDelayedErrors: what was answered and cannot be written is an error of fsync, of
// close, and of the next write, and status tells of it.
func TestDelayedErrors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not root: no disk of its own to fill")
		return
	}
	d := newDelaying(t, onDisk)
	data := pattern(6 << 20)
	for name, ask := range map[string]func(f *os.File) error{
		"close": func(f *os.File) error { return f.Close() },
		"fsync": func(f *os.File) error { return f.Sync() },
		"write": func(f *os.File) error {
			if _, err := f.Stat(); err != nil { // until it is known
				return err
			}
			_, err := f.WriteAt([]byte("x"), 0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := d.lost()
			f := d.new("file")
			d.space(2)
			defer d.space(plenty)
			d.stands(func() {
				_, err := f.Write(data)
				must(t, errors.Join(err, f.Chmod(0o640)))
			})
			if err := ask(f); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: %v", name, err)
			}
			if name != "close" {
				if err := f.Close(); !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("close after %s: %v", name, err)
				}
			}
			got, err := os.ReadFile(d.path("file"))
			must(t, err)
			if !bytes.HasPrefix(data, got) {
				t.Errorf("%d bytes that are no beginning of what was written", len(got))
			}
			i, err := os.Stat(d.path("file"))
			must(t, err)
			if i.Mode().Perm() != 0o640 || i.Size() != int64(len(got)) {
				t.Errorf("mode %v, %d bytes of %d", i.Mode(), i.Size(), len(got))
			}
			if d.lost() == before {
				t.Error("status does not tell of it")
			}
			must(t, os.Remove(d.path("file")))
			if !eventually(patience, func() bool {
				err = os.WriteFile(d.path("next"), data[:1<<20], 0o644)
				return errors.Join(err, os.Remove(d.path("next"))) == nil
			}) {
				t.Error("no space for the next file:", err)
			}
		})
	}
}

// lost returns how many bytes the mount has answered and not written.
func (w *world) lost() uint64 {
	w.t.Helper()
	var s struct{ Unwritten *struct{ Bytes uint64 } }
	text, _ := w.command("rpycfs", "status", "--json", w.mnt).Output() // it fails when the session is over
	must(w.t, json.Unmarshal(text, &s))
	if s.Unwritten == nil {
		return 0
	}
	return s.Unwritten.Bytes
}

// TestDelayedSessionOver: when the session is over, fsync and close say so.
func TestDelayedSessionOver(t *testing.T) {
	d := newDelaying(t)
	does := d.writer("file")
	d.stands(func() {
		if errno := does("write"); errno != "0" {
			t.Errorf("write: error %s", errno)
		}
		d.crash()
		records, err := filepath.Glob(filepath.Join(d.dir, "state", "*.sessions"))
		must(t, err)
		for _, path := range records {
			must(t, os.Remove(path))
		}
		d.start()
	})
	for _, what := range []string{"sync", "close"} {
		if errno := does(what); errno != strconv.Itoa(int(syscall.EIO)) {
			t.Errorf("%s: error %s", what, errno)
		}
	}
	if d.lost() != 4<<20 {
		t.Errorf("status tells of %d bytes", d.lost())
	}
}

// TestNotDelayedAfterClose: what is done to a file by its name, when it has been closed, is
// on the server when it has been answered: nothing that comes later would wait for it.
func TestNotDelayedAfterClose(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.serve()
	w.mount("/")
	for i := range 200 {
		name := fmt.Sprint("f", i)
		must(t, os.WriteFile(w.path(name), []byte(name), 0o600))
		must(t, os.Chmod(w.path(name), 0o640))
		info, err := os.Stat(filepath.Join(w.export, name))
		must(t, err)
		if got := info.Mode().Perm(); got != 0o640 {
			t.Fatalf("%s has mode %v on the server", name, got)
		}
	}
}
