package export

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	file := v.lookup("file").Node
	open := func(name string, flags uint32, errno error) {
		t.Helper()
		fail(v, fsproto.Open, fsproto.OpenReq{Node: v.lookup(name).Node, Handle: newHandle(), Flags: flags}, errno)
	}
	open("link", 0, syscall.ELOOP)
	open("dir", 0, syscall.EISDIR)
	open("fifo", fsproto.OpenReadWrite, syscall.ENXIO)
	open("file", fsproto.OpenDir, syscall.ENOTDIR)
	fail(v, fsproto.Opendir, fsproto.OpenReq{Node: file, Handle: newHandle()}, syscall.ENOTDIR)
	fail(v, fsproto.Opendir, fsproto.OpenReq{Node: root, Handle: newHandle(), Flags: fsproto.OpenWrite}, syscall.EISDIR)

	h := v.open(file, fsproto.OpenRead)
	fail(v, fsproto.Open, fsproto.OpenReq{Node: file, Handle: h}, syscall.EEXIST)
	fail(v, fsproto.Open, fsproto.OpenReq{Node: file, Handle: 0}, syscall.EINVAL)
	_, err := v.write(fsproto.WriteReq{Handle: h}, "x")
	want(t, err, syscall.EBADF)
	fail(v, fsproto.Fallocate, fsproto.FallocateReq{Handle: h, Length: 1}, syscall.EBADF)
	v.release(h)
	fail(v, fsproto.Release, fsproto.ReleaseReq{Handle: h}, syscall.EBADF)
	_, err = v.read(h, 0, 1)
	want(t, err, syscall.EBADF)

	v.open(file, fsproto.OpenRead|fsproto.OpenNoAtime|fsproto.OpenSync|fsproto.OpenDirect|fsproto.OpenExec)
	v.open(file, fsproto.OpenRead|fsproto.OpenTruncate)
	v.content("file", "")
}

// TestReleases closes many files in one call, which may name one that is not open.
func TestReleases(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, nil)
	must(t, os.WriteFile(v.path("file"), []byte("text"), 0o644))
	file := v.lookup("file").Node
	before := descriptors(t)
	var handles []fsproto.Handle
	for range 5 {
		handles = append(handles, v.open(file, fsproto.OpenRead))
	}
	kept := v.open(file, fsproto.OpenRead)
	do(v, fsproto.Releases, fsproto.ReleasesReq{Handles: append(handles, newHandle())})
	for _, h := range handles {
		_, err := v.read(h, 0, 1)
		want(t, err, syscall.EBADF)
	}
	if text, err := v.read(kept, 0, 4); err != nil || string(text) != "text" {
		t.Errorf("the file that stayed open: %q, %v", text, err)
	}
	if n := descriptors(t); n > before+2 {
		t.Errorf("%d descriptors, before there were %d", n, before)
	}
}

func TestHandleLimit(t *testing.T) {
	v := newEnv(t, Config{MaxHandles: 3}, Identity{}, tree)
	file := v.lookup("file").Node
	var open []fsproto.Handle
	for range 3 {
		open = append(open, v.open(file, 0))
	}
	fail(v, fsproto.Open, fsproto.OpenReq{Node: file, Handle: newHandle()}, syscall.EMFILE)
	v.release(open[0])
	v.open(file, 0)
}

func TestNodeLimit(t *testing.T) {
	v := newEnv(t, Config{MaxNodes: 3}, Identity{}, tree)
	v.lookup("file")
	v.lookup("dir")
	fail(v, fsproto.Lookup, fsproto.LookupReq{Parent: root, Name: "link"}, syscall.ENFILE)
	fail(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "new", NewNode: newNode()}, syscall.ENFILE)
	if _, err := os.Lstat(v.path("new")); err == nil {
		t.Error("refused, but made")
	}
	names := v.list(root, true)
	if len(names) != 4 {
		t.Errorf("listed %d", len(names))
	}
}

func TestCreate(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	req := func(name string, flags uint32) fsproto.CreateReq {
		return fsproto.CreateReq{Parent: root, Name: name, Mode: 0o666, Umask: 0o022, Flags: flags, NewNode: newNode(), Handle: newHandle()}
	}
	res := do(v, fsproto.Create, req("new", fsproto.OpenReadWrite|fsproto.OpenExclusive))
	if res.Entry.Attr.Mode != fsproto.ModeRegular|0o644 || !res.Parent.IsDir() {
		t.Errorf("create: %+v", res)
	}
	fail(v, fsproto.Create, req("new", fsproto.OpenExclusive), syscall.EEXIST)
	fail(v, fsproto.Create, req("link", 0), syscall.ELOOP)
	fail(v, fsproto.Create, req("link", fsproto.OpenExclusive), syscall.EEXIST)
	fail(v, fsproto.Create, req("dir", fsproto.OpenWrite), syscall.EISDIR)
	fail(v, fsproto.Create, req("fifo", fsproto.OpenWrite), syscall.ENXIO)
	r := req("none", 0)
	r.Parent = res.Entry.Node
	fail(v, fsproto.Create, r, syscall.ENOTDIR)
	res = do(v, fsproto.Create, req("file", fsproto.OpenWrite|fsproto.OpenTruncate))
	if res.Entry.Attr.Size != 0 {
		t.Errorf("size %d", res.Entry.Attr.Size)
	}
	// A read-only mode does not hinder the handle that made the file.
	r = req("readonly", fsproto.OpenWrite)
	r.Mode = 0o444
	do(v, fsproto.Create, r)
	_, err := v.write(fsproto.WriteReq{Handle: r.Handle}, "data")
	must(t, err)
	v.content("readonly", "data")
}

func TestTmpfile(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, nil)
	req := fsproto.TmpfileReq{Parent: root, Mode: 0o600, Flags: fsproto.OpenReadWrite, NewNode: newNode(), Handle: newHandle()}
	res := do(v, fsproto.Tmpfile, req)
	if res.Entry.Attr.Nlink != 0 || res.Entry.Node != req.NewNode {
		t.Errorf("tmpfile: %+v", res.Entry)
	}
	_, err := v.write(fsproto.WriteReq{Handle: req.Handle}, "tmp")
	must(t, err)
	do(v, fsproto.Link, fsproto.LinkReq{Node: req.NewNode, Parent: root, Name: "named"})
	v.content("named", "tmp")
	v.release(req.Handle)
	do(v, fsproto.Getattr, fsproto.GetattrReq{Node: req.NewNode})
	fail(v, fsproto.Tmpfile, fsproto.TmpfileReq{Parent: root, NewNode: newNode(), Handle: newHandle()}, syscall.EINVAL)
}

func TestReadWrite(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, nil)
	en, h := v.create("f", fsproto.OpenReadWrite)
	res, err := v.write(fsproto.WriteReq{Handle: h, Offset: 2}, "abc")
	if err != nil || res.Count != 3 || res.Offset != 2 || res.Attr.Size != 5 || res.Attr.Change == en.Attr.Change {
		t.Errorf("write: %+v, %v", res, err)
	}
	for i, flags := range []uint32{0, fsproto.WriteSync, fsproto.WriteDataSync} {
		res, err = v.write(fsproto.WriteReq{Handle: h, Offset: 1, Flags: fsproto.WriteAppend | flags}, "++")
		if err != nil || res.Offset != uint64(5+2*i) || res.Count != 2 {
			t.Errorf("append: %+v, %v", res, err)
		}
	}
	_, err = v.write(fsproto.WriteReq{Handle: h, Offset: 0, Flags: fsproto.WriteSync}, "xy")
	must(t, err)
	v.content("f", "xyabc++++++")
	if b, err := v.read(h, 9, 100); string(b) != "++" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	if b, err := v.read(h, 100, 10); len(b) != 0 || err != nil {
		t.Errorf("read behind the end %q, %v", b, err)
	}
	_, err = v.read(h, 1<<63, 1)
	want(t, err, syscall.EINVAL)
	_, err = v.write(fsproto.WriteReq{Handle: h, Offset: 1 << 63}, "x")
	want(t, err, syscall.EINVAL)
	_, err = v.write(fsproto.WriteReq{Handle: h, Offset: 1<<63 - 1}, "x")
	if err == nil {
		t.Error("wrote at the end of all offsets")
	}
	do(v, fsproto.Fsync, fsproto.FsyncReq{Handle: h})
	do(v, fsproto.Fsync, fsproto.FsyncReq{Handle: h, DataOnly: true})
	d := v.opendir(root)
	do(v, fsproto.Fsync, fsproto.FsyncReq{Handle: d})
	_, err = v.read(d, 0, 1)
	want(t, err, syscall.EISDIR)
}

func TestRanges(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, nil)
	_, h := v.create("f", fsproto.OpenReadWrite)
	data := strings.Repeat("d", 64<<10)
	_, err := v.write(fsproto.WriteReq{Handle: h}, data)
	must(t, err)
	alloc := func(mode uint32, off, n uint64) fsproto.Attr {
		t.Helper()
		return do(v, fsproto.Fallocate, fsproto.FallocateReq{Handle: h, Mode: mode, Offset: off, Length: n}).Attr
	}
	if a := alloc(0, 64<<10, 64<<10); a.Size != 128<<10 {
		t.Errorf("size %d", a.Size)
	}
	if a := alloc(fsproto.FallocKeepSize, 128<<10, 1); a.Size != 128<<10 {
		t.Errorf("size %d", a.Size)
	}
	alloc(fsproto.FallocPunchHole|fsproto.FallocKeepSize, 0, 16<<10)
	fail(v, fsproto.Fallocate, fsproto.FallocateReq{Handle: h, Mode: fsproto.FallocPunchHole, Length: 1}, syscall.EOPNOTSUPP)
	fail(v, fsproto.Fallocate, fsproto.FallocateReq{Handle: h}, syscall.EINVAL)
	fail(v, fsproto.Fallocate, fsproto.FallocateReq{Handle: h, Offset: 1 << 63, Length: 1}, syscall.EINVAL)
	if b, err := v.read(h, 0, 4); string(b) != "\x00\x00\x00\x00" || err != nil {
		t.Errorf("hole holds %q, %v", b, err)
	}
	if res := do(v, fsproto.Lseek, fsproto.LseekReq{Handle: h, Whence: fsproto.SeekData}); res.Offset != 16<<10 {
		t.Errorf("data at %d", res.Offset)
	}
	if res := do(v, fsproto.Lseek, fsproto.LseekReq{Handle: h, Whence: fsproto.SeekHole}); res.Offset != 0 {
		t.Errorf("hole at %d", res.Offset)
	}
	fail(v, fsproto.Lseek, fsproto.LseekReq{Handle: h, Offset: 1 << 20, Whence: fsproto.SeekData}, syscall.ENXIO)
	_, to := v.create("g", fsproto.OpenWrite)
	req := fsproto.CopyReq{From: h, FromOffset: 16 << 10, To: to, ToOffset: 10, Length: 1000}
	if res := do(v, fsproto.CopyFileRange, req); res.Count != 1000 || res.Attr.Size != 1010 {
		t.Errorf("copy: %+v", res)
	}
	v.content("g", strings.Repeat("\x00", 10)+data[:1000])
	fail(v, fsproto.CopyFileRange, fsproto.CopyReq{From: to, To: h, Length: 1}, syscall.EBADF)
	req.To, req.ToOffset = h, 16<<10
	fail(v, fsproto.CopyFileRange, req, syscall.EINVAL)
}

func (v *env) opendir(node fsproto.Node) fsproto.Handle {
	v.t.Helper()
	h := newHandle()
	do(v, fsproto.Opendir, fsproto.OpenReq{Node: node, Handle: h})
	return h
}

// list returns the names in a directory, read in small pieces.
func (v *env) list(node fsproto.Node, entries bool) (all []fsproto.Dirent) {
	v.t.Helper()
	h := v.opendir(node)
	defer v.release(h)
	for cookie := uint64(0); ; {
		res := do(v, fsproto.Readdir, fsproto.ReaddirReq{Handle: h, Cookie: cookie, Size: 3000, Entries: entries})
		all = append(all, res.Entries...)
		if res.End {
			return all
		}
		cookie = all[len(all)-1].Cookie
	}
}

func TestReaddir(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, nil)
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("%s-%d", strings.Repeat("n", i%200), i))
		must(t, os.WriteFile(v.path(names[i]), []byte(names[i]), 0o644))
	}
	slices.Sort(names)
	for _, entries := range []bool{false, true} {
		all := v.list(root, entries)
		var got []string
		for _, d := range all {
			got = append(got, d.Name)
			if d.Known != entries || d.Type != fsproto.ModeRegular || entries && int(d.Entry.Attr.Size) != len(d.Name) {
				t.Fatalf("entry %+v", d)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, names) {
			t.Errorf("listed %d names, want %d", len(got), len(names))
		}
		// Cookies mean the same in another handle, and backwards.
		h := v.opendir(root)
		for i := len(all) - 2; i >= 0; i -= 50 {
			res := do(v, fsproto.Readdir, fsproto.ReaddirReq{Handle: h, Cookie: all[i].Cookie, Size: 2000})
			if res.Entries[0].Name != all[i+1].Name {
				t.Errorf("after %q comes %q", all[i].Name, res.Entries[0].Name)
			}
		}
		v.release(h)
	}
	h := v.opendir(root)
	fail(v, fsproto.Readdir, fsproto.ReaddirReq{Handle: h, Size: 10}, syscall.EINVAL)
	file := v.open(v.lookup(names[0]).Node, 0)
	fail(v, fsproto.Readdir, fsproto.ReaddirReq{Handle: file, Size: 1000}, syscall.ENOTDIR)
	fail(v, fsproto.Readdir, fsproto.ReaddirReq{Handle: 1 << 60, Size: 1000}, syscall.EBADF)
}

// TestNotOwner: O_NOATIME is dropped where it is not permitted.
func TestNotOwner(t *testing.T) {
	v := newEnv(t, Config{Path: "/etc", ReadOnly: true}, Identity{}, nil)
	v.open(v.lookup("passwd").Node, fsproto.OpenNoAtime)
}

// TestAppendOnly: a file that can only be appended to is opened for that.
func TestAppendOnly(t *testing.T) {
	if !isRoot() {
		return // only root can make one
	}
	v := newEnv(t, Config{}, Identity{}, tree)
	f, err := os.Open(v.path("file"))
	must(t, err)
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_APPEND); err != nil {
		t.Fatalf("append-only flag: %v", err)
	}
	defer unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0)
	node := v.lookup("file").Node
	fail(v, fsproto.Open, fsproto.OpenReq{Node: node, Handle: newHandle(), Flags: fsproto.OpenWrite}, syscall.EPERM)
	h := v.open(node, fsproto.OpenWrite|fsproto.OpenAppend)
	_, err = v.write(fsproto.WriteReq{Handle: h, Flags: fsproto.WriteAppend}, "+")
	must(t, err)
	v.content("file", "0123456789+")
}
