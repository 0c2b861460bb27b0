package beneath

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	os.Exit(m.Run())
}

// root returns a Path to a new directory, and its name.
func root(t *testing.T) (*Path, string) {
	t.Helper()
	dir := t.TempDir()
	p, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, dir
}

func walk(t *testing.T, p *Path, name string) *Path {
	t.Helper()
	c, err := p.Walk(name)
	if err != nil {
		t.Fatalf("walk %q: %v", name, err)
	}
	t.Cleanup(c.Close)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err, errno error) {
	t.Helper()
	if !errors.Is(err, errno) {
		t.Errorf("error %v, want %v", err, errno)
	}
}

// TestKernel proves the facts that this package stands on.
func TestKernel(t *testing.T) {
	p, dir := root(t)
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("data"), 0o644))
	must(t, os.Symlink("f", filepath.Join(dir, "l")))
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	f, l, d, fifo := walk(t, p, "f"), walk(t, p, "l"), walk(t, p, "d"), walk(t, p, "fifo")

	t.Run("stat of a link", func(t *testing.T) {
		st, err := l.Stat()
		must(t, err)
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("mode %o", st.Mode)
		}
	})
	t.Run("link to a link", func(t *testing.T) {
		must(t, p.Link(l, "l2"))
		st, err := p.StatAt("l2")
		must(t, err)
		if st.Mode&unix.S_IFMT != unix.S_IFLNK || st.Nlink != 2 {
			t.Errorf("mode %o nlink %d", st.Mode, st.Nlink)
		}
		want(t, p.Link(d, "d2"), syscall.EPERM)
	})
	t.Run("chmod", func(t *testing.T) {
		must(t, f.Chmod(0o600))
		want(t, l.Chmod(0o600), syscall.EOPNOTSUPP)
		must(t, d.Chmod(0o700))
		must(t, fifo.Chmod(0o600))
		st, _ := f.Stat()
		if st.Mode&0o7777 != 0o600 {
			t.Errorf("mode %o", st.Mode)
		}
	})
	t.Run("chown and times", func(t *testing.T) {
		for _, o := range []*Path{f, l, d, fifo} {
			must(t, o.Chown(os.Geteuid(), os.Getegid()))
			must(t, o.Utimes(unix.Timespec{Sec: 1, Nsec: 2}, unix.Timespec{Sec: 3, Nsec: 4}))
			st, _ := o.Stat()
			if st.Atime.Sec != 1 || st.Mtime.Nsec != 4 {
				t.Errorf("times %v %v", st.Atime, st.Mtime)
			}
		}
		st, _ := f.Stat()
		must(t, l.Utimes(unix.Timespec{Nsec: unix.UTIME_NOW}, unix.Timespec{Nsec: unix.UTIME_OMIT}))
		if again, _ := f.Stat(); again.Ctime != st.Ctime {
			t.Error("times of a link changed its target")
		}
	})
	t.Run("truncate", func(t *testing.T) {
		want(t, l.Truncate(0), syscall.EINVAL)
		want(t, d.Truncate(0), syscall.EISDIR)
		want(t, fifo.Truncate(0), syscall.EINVAL)
		must(t, f.Truncate(2))
	})
	t.Run("open", func(t *testing.T) {
		for o, errno := range map[*Path]error{l: syscall.ELOOP, d: syscall.EISDIR, fifo: syscall.ENXIO} {
			_, err := o.Open(unix.O_RDONLY)
			want(t, err, errno)
		}
		_, err := f.OpenDir()
		want(t, err, syscall.ENOTDIR)
	})
	t.Run("xattrs", func(t *testing.T) {
		must(t, f.Setxattr("user.a", []byte("v"), 0))
		want(t, l.Setxattr("user.a", []byte("v"), 0), syscall.EPERM)
		_, err := l.Getxattr("user.a", nil)
		want(t, err, syscall.ENODATA)
		n, err := l.Listxattr(nil)
		if n != 0 || err != nil {
			t.Errorf("names of a link: %d bytes, %v", n, err)
		}
		want(t, fifo.Setxattr("user.a", []byte("v"), 0), syscall.EPERM)
	})
	t.Run("readlink", func(t *testing.T) {
		target, err := l.Readlink(10)
		if string(target) != "f" || err != nil {
			t.Errorf("%q %v", target, err)
		}
		for _, o := range []*Path{f, d, fifo} {
			_, err = o.Readlink(10)
			want(t, err, syscall.EINVAL)
		}
	})
	t.Run("access", func(t *testing.T) {
		must(t, f.Access(unix.R_OK|unix.W_OK))
		must(t, l.Access(unix.R_OK))
		want(t, f.Access(unix.X_OK), syscall.EACCES)
	})
	t.Run("tmpfile", func(t *testing.T) {
		file, err := p.Tmpfile(unix.O_RDWR, 0o600)
		must(t, err)
		defer file.Close()
		o, err := file.Path()
		must(t, err)
		defer o.Close()
		must(t, p.Link(o, "named"))
		if st, _ := o.Stat(); st.Nlink != 1 {
			t.Errorf("nlink %d", st.Nlink)
		}
	})
	t.Run("unlinked", func(t *testing.T) {
		must(t, os.WriteFile(filepath.Join(dir, "gone"), nil, 0o644))
		o := walk(t, p, "gone")
		must(t, p.Unlink("gone"))
		if st, err := o.Stat(); st.Nlink != 0 || err != nil {
			t.Errorf("nlink %d, %v", st.Nlink, err)
		}
		must(t, o.Chmod(0o600))
		file, err := o.Open(unix.O_RDWR)
		must(t, err)
		file.Close()
		want(t, p.Link(o, "back"), syscall.ENOENT)
	})
	t.Run("parent of a removed directory", func(t *testing.T) {
		must(t, p.Mkdir("e", 0o755))
		e := walk(t, p, "e")
		must(t, p.Rmdir("e"))
		up, err := e.Parent()
		must(t, err)
		defer up.Close()
		a, _ := up.Stat()
		b, _ := p.Stat()
		if a.Ino != b.Ino {
			t.Errorf("parent is %d, want %d", a.Ino, b.Ino)
		}
	})
}

func TestAppend(t *testing.T) {
	p, dir := root(t)
	file, err := p.Create("f", unix.O_RDWR, 0o644)
	must(t, err)
	defer file.Close()
	_, err = p.Create("f", unix.O_RDWR, 0o644)
	want(t, err, syscall.EEXIST)
	must(t, file.Truncate(10))
	for i, flags := range []int{0, unix.RWF_SYNC, unix.RWF_DSYNC} {
		n, off, err := file.Append([]byte("abc"), flags)
		if n != 3 || off != int64(10+3*i) || err != nil {
			t.Errorf("append: %d at %d, %v", n, off, err)
		}
	}
	if n, err := file.WriteAt([]byte("xy"), 0, unix.RWF_DSYNC); n != 2 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	got, _ := os.ReadFile(filepath.Join(dir, "f"))
	if string(got) != "xy\x00\x00\x00\x00\x00\x00\x00\x00abcabcabc" {
		t.Errorf("content %q", got)
	}
	b := make([]byte, 8)
	if n, err := file.ReadAt(b, 16); n != 3 || err != nil {
		t.Errorf("read: %d, %v", n, err)
	}
}

func TestKernelHandle(t *testing.T) {
	p, dir := root(t)
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	h, err := walk(t, p, "d").Handle()
	must(t, err)
	if other, err := p.HandleAt("d"); other != h || err != nil {
		t.Errorf("handle by name %v, %v; by descriptor %v", other, err, h)
	}
	dirFile, err := p.OpenDir()
	must(t, err)
	defer dirFile.Close()
	priv, err := Privileges()
	must(t, err)
	o, err := dirFile.OpenHandle(h)
	if !priv.ByHandle {
		want(t, err, syscall.EPERM)
		return
	}
	must(t, err)
	defer o.Close()
	up, err := o.Parent()
	must(t, err)
	up.Close()
	must(t, p.Rmdir("d"))
}

func TestNames(t *testing.T) {
	p, _ := root(t)
	for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00"} {
		_, err := p.Walk(name)
		want(t, err, syscall.EINVAL)
		_, err = p.StatAt(name)
		want(t, err, syscall.EINVAL)
		_, err = p.HandleAt(name)
		want(t, err, syscall.EINVAL)
		_, err = p.Create(name, unix.O_RDWR, 0o644)
		want(t, err, syscall.EINVAL)
		want(t, p.Mkdir(name, 0o755), syscall.EINVAL)
		want(t, p.Mknod(name, unix.S_IFREG, 0, 0), syscall.EINVAL)
		want(t, p.Symlink("x", name), syscall.EINVAL)
		want(t, p.Link(p, name), syscall.EINVAL)
		want(t, p.Unlink(name), syscall.EINVAL)
		want(t, p.Rmdir(name), syscall.EINVAL)
		want(t, p.Rename(name, p, "x", 0), syscall.EINVAL)
		want(t, p.Rename("x", p, name, 0), syscall.EINVAL)
	}
	want(t, p.Mknod("dev", unix.S_IFDIR|0o700, 0, 0), syscall.EPERM)
	want(t, p.Mknod("dev", unix.S_IFCHR|0o600, 1<<12, 0), syscall.EINVAL)
	want(t, p.Mknod("dev", unix.S_IFBLK|0o600, 0, 1<<20), syscall.EINVAL)
}

func TestDirents(t *testing.T) {
	p, dir := root(t)
	var names []string
	for i := range 300 {
		name := "entry-" + time.Duration(i).String()
		names = append(names, name)
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	f, err := p.OpenDir()
	must(t, err)
	defer f.Close()
	var all []Dirent
	for end := false; !end; {
		all, end, err = f.Dirents(make([]byte, MinDirents), all)
		must(t, err)
	}
	var got []string
	for i, d := range all {
		got = append(got, d.Name)
		_, err := f.Seek(int64(d.Next), unix.SEEK_SET)
		must(t, err)
		rest, _, err := f.Dirents(make([]byte, MinDirents), nil)
		must(t, err)
		if i+1 < len(all) && rest[0].Name != all[i+1].Name {
			t.Fatalf("after %q comes %q, want %q", d.Name, rest[0].Name, all[i+1].Name)
		}
		if d.Type != unix.S_IFREG {
			t.Errorf("%q: type %o", d.Name, d.Type)
		}
	}
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Errorf("listed %d names, want %d", len(got), len(names))
	}
}
