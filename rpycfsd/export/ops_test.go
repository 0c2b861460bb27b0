package export

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

const root = fsproto.RootNode

// isRoot reports whether the tests run with a privileged daemon's rules.
func isRoot() bool { return os.Geteuid() == 0 }

// tree makes one object of each kind.
func tree(dir string) {
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "file"), []byte("0123456789"), 0o644),
		os.Mkdir(filepath.Join(dir, "dir"), 0o755),
		os.WriteFile(filepath.Join(dir, "dir/inner"), []byte("inner"), 0o600),
		os.Symlink("/etc/passwd", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644),
	} {
		if err != nil {
			panic(err)
		}
	}
}

func TestMethodsComplete(t *testing.T) {
	var mux rpc.Mux
	v := newEnv(t, Config{}, Identity{}, nil)
	v.s.Register(&mux)
	n := 0
	for _, op := range rpc.Ops() {
		if op.Number>>8 == 1 && !fsproto.ServerCalls(op.Number) {
			n++
			if !mux.Handles(op.Number) {
				t.Errorf("%s has no handler", op.Name)
			}
		}
	}
	if n != len(methods) || n == 0 {
		t.Errorf("%d operations, %d methods", n, len(methods))
	}
}

func TestAttach(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, func(dir string) {
		tree(dir)
		must(t, os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
		must(t, os.Symlink("a", filepath.Join(dir, "toa")))
	})
	fail(v, fsproto.Attach, fsproto.AttachReq{}, syscall.EBUSY)
	other := func(id Identity) *env {
		o := *v
		o.s = v.session(id)
		o.client = connect(t, o.s)
		return &o
	}
	o := other(Identity{Root: "/a/"})
	fail(o, fsproto.Getattr, fsproto.GetattrReq{Node: root}, syscall.ESTALE)
	fail(o, fsproto.Attach, fsproto.AttachReq{Path: []string{"x"}}, syscall.ENOENT)
	res := do(o, fsproto.Attach, fsproto.AttachReq{Path: []string{"b", "c"}})
	if want := v.lookup("a/b/c").Attr.Ino; res.Entry.Attr.Ino != want {
		t.Errorf("attached inode %d, want %d", res.Entry.Attr.Ino, want)
	}
	o = other(Identity{})
	fail(o, fsproto.Attach, fsproto.AttachReq{Path: []string{"toa", "b"}}, syscall.ELOOP)
	fail(o, fsproto.Attach, fsproto.AttachReq{Path: []string{"file"}}, syscall.ENOTDIR)
	fail(o, fsproto.Attach, fsproto.AttachReq{Path: []string{"fifo"}}, syscall.ENOTDIR)
	for root, errno := range map[string]error{"toa": syscall.ELOOP, "a/../..": syscall.EINVAL, "none": syscall.ENOENT, "file": syscall.ENOTDIR} {
		_, err := v.e.NewSession(Identity{Root: root})
		want(t, err, errno)
	}
	_, err := Open(Config{Path: v.path("none")})
	want(t, err, syscall.ENOENT)
	_, err = Open(Config{Path: v.path("file")})
	want(t, err, syscall.ENOTDIR)
}

func TestLookup(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	a, b := v.lookup("dir/inner"), v.lookup("dir/inner")
	if a.Node != b.Node || a.Stamp >= b.Stamp || a.Node&fsproto.ClientChosen != 0 {
		t.Errorf("entries %+v, %+v", a, b)
	}
	if a.Attr.Size != 5 || a.Attr.Mode != fsproto.ModeRegular|0o600 || a.Attr.UID != uint32(os.Geteuid()) {
		t.Errorf("attributes %+v", a.Attr)
	}
	res := do(v, fsproto.Lookup, fsproto.LookupReq{Parent: root, Name: "none"})
	if res.Exists || !res.Parent.IsDir() {
		t.Errorf("no entry: %+v", res)
	}
	fail(v, fsproto.Lookup, fsproto.LookupReq{Parent: a.Node, Name: "x"}, syscall.ENOTDIR)
	fail(v, fsproto.Lookup, fsproto.LookupReq{Parent: 999, Name: "x"}, syscall.ESTALE)
	link := v.lookup("link")
	if link.Attr.Type() != fsproto.ModeSymlink {
		t.Errorf("link is %o", link.Attr.Mode)
	}
}

func TestForget(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	a := v.lookup("file")
	b := v.lookup("file")
	forget := func(n fsproto.Node, stamp uint64) {
		do(v, fsproto.Forget, fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: n, Stamp: stamp}, {Node: 12345, Stamp: math.MaxUint64}}})
	}
	forget(a.Node, a.Stamp)
	do(v, fsproto.Getattr, fsproto.GetattrReq{Node: a.Node})
	forget(a.Node, b.Stamp)
	fail(v, fsproto.Getattr, fsproto.GetattrReq{Node: a.Node}, syscall.ESTALE)
	if again := v.lookup("file"); again.Node == a.Node {
		t.Error("number reused")
	}
	forget(root, math.MaxUint64)
	do(v, fsproto.Getattr, fsproto.GetattrReq{Node: root})
}

func TestNumbersOfTheClient(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	en, _ := v.create("new", fsproto.OpenReadWrite)
	if en.Node&fsproto.ClientChosen == 0 {
		t.Errorf("new file is %#x", en.Node)
	}
	known, alias := v.lookup("file"), newNode()
	res := do(v, fsproto.Create, fsproto.CreateReq{Parent: root, Name: "file", NewNode: alias, Handle: newHandle()})
	if res.Entry.Node != known.Node {
		t.Errorf("known file is %#x, want %#x", res.Entry.Node, known.Node)
	}
	if a := do(v, fsproto.Getattr, fsproto.GetattrReq{Node: alias}); a.Attr.Ino != known.Attr.Ino {
		t.Error("alias does not answer")
	}
	fail(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "x", NewNode: alias}, syscall.EEXIST)
	fail(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "x", NewNode: 77}, syscall.EINVAL)
	do(v, fsproto.Forget, fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: alias, Stamp: res.Entry.Stamp}}})
	fail(v, fsproto.Getattr, fsproto.GetattrReq{Node: alias}, syscall.ESTALE)
	do(v, fsproto.Getattr, fsproto.GetattrReq{Node: known.Node})
}

func TestSetattr(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	file, dir, link, fifo := v.lookup("file").Node, v.lookup("dir").Node, v.lookup("link").Node, v.lookup("fifo").Node
	set := func(r fsproto.SetattrReq) fsproto.Attr { t.Helper(); return do(v, fsproto.Setattr, r).Attr }
	if a := set(fsproto.SetattrReq{Node: file, Mask: fsproto.SetMode, Mode: 0o640}); a.Mode != fsproto.ModeRegular|0o640 {
		t.Errorf("mode %o", a.Mode)
	}
	if a := set(fsproto.SetattrReq{Node: file, Mask: fsproto.SetSize, Size: 4}); a.Size != 4 {
		t.Errorf("size %d", a.Size)
	}
	old := fsproto.Time{Sec: -5, Nsec: 7}
	if a := set(fsproto.SetattrReq{Node: link, Mask: fsproto.SetAtime | fsproto.SetMtime, Atime: old, Mtime: old}); a.Atime != old || a.Mtime != old {
		t.Errorf("times %v %v", a.Atime, a.Mtime)
	}
	if a := set(fsproto.SetattrReq{Node: link, Mask: fsproto.SetMtimeNow}); a.Atime != old || a.Mtime.Sec < 1e9 {
		t.Errorf("times %v %v", a.Atime, a.Mtime)
	}
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: link, Mask: fsproto.SetMode, Mode: 0o600}, syscall.EOPNOTSUPP)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: dir, Mask: fsproto.SetSize}, syscall.EISDIR)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: fifo, Mask: fsproto.SetSize}, syscall.EINVAL)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetSize, Size: 1 << 63}, syscall.EINVAL)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetMtime | fsproto.SetMtimeNow}, syscall.EINVAL)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetUID, UID: uint32(os.Geteuid()) + 1}, syscall.EPERM)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetGID, GID: 54321}, syscall.EPERM)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetUID, UID: math.MaxUint32}, syscall.EINVAL)
	set(fsproto.SetattrReq{Node: file, Mask: fsproto.SetUID | fsproto.SetGID, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})

	ro, rw := v.open(file, fsproto.OpenRead), v.open(file, fsproto.OpenWrite)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Handle: ro, Mask: fsproto.SetSize}, syscall.EINVAL)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: dir, Handle: rw, Mask: fsproto.SetSize}, syscall.EINVAL)
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Handle: 4242, Mask: fsproto.SetSize}, syscall.EBADF)
	if a := set(fsproto.SetattrReq{Node: file, Handle: rw, Mask: fsproto.SetSize, Size: 100}); a.Size != 100 {
		t.Errorf("size %d", a.Size)
	}
}

// TestSetID: a privileged daemon hands out no set-id bits, and drops those of a
// file that is written, whether asked for or not.
func TestSetID(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	file := v.lookup("file").Node
	for name, change := range v.changes(file) {
		must(t, unix.Chmod(v.path("file"), 0o6755))
		h := v.open(file, fsproto.OpenReadWrite)
		must(t, change(h))
		a := do(v, fsproto.Getattr, fsproto.GetattrReq{Node: file}).Attr
		if a.Mode&0o7777 != 0o755 {
			t.Errorf("mode after %s: %o", name, a.Mode)
		}
		v.release(h)
	}
	if !isRoot() {
		return
	}
	fail(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetMode, Mode: 0o4755}, syscall.EPERM)
	fail(v, fsproto.Create, fsproto.CreateReq{Parent: root, Name: "s", Mode: 0o4755, Handle: newHandle(), NewNode: newNode()}, syscall.EPERM)
	fail(v, fsproto.Mknod, fsproto.MknodReq{Parent: root, Name: "s", Mode: fsproto.ModeRegular | 0o2755, NewNode: newNode()}, syscall.EPERM)
	must(t, unix.Chmod(v.path("dir"), 0o2775))
	dir := v.lookup("dir").Node
	do(v, fsproto.Setattr, fsproto.SetattrReq{Node: dir, Mask: fsproto.SetMode, Mode: 0o2755})
	sub := do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: dir, Name: "sub", Mode: 0o4777, NewNode: newNode()})
	if sub.Entry.Attr.Mode != fsproto.ModeDir|0o2777 {
		t.Errorf("inherited mode %o", sub.Entry.Attr.Mode)
	}
}

// changes are the ways to change what is in a file, h being it open for writing.
func (v *env) changes(file fsproto.Node) map[string]func(h fsproto.Handle) error {
	return map[string]func(h fsproto.Handle) error{
		"write": func(h fsproto.Handle) error { _, err := v.write(fsproto.WriteReq{Handle: h}, "x"); return err },
		"append": func(h fsproto.Handle) error {
			_, err := v.write(fsproto.WriteReq{Handle: h, Flags: fsproto.WriteAppend}, "x")
			return err
		},
		"truncate": func(fsproto.Handle) error {
			_, err := try(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetSize})
			return err
		},
		"ftruncate": func(h fsproto.Handle) error {
			_, err := try(v, fsproto.Setattr, fsproto.SetattrReq{Node: file, Handle: h, Mask: fsproto.SetSize})
			return err
		},
		"open": func(fsproto.Handle) error {
			h := newHandle()
			_, err := try(v, fsproto.Open, fsproto.OpenReq{Node: file, Handle: h, Flags: fsproto.OpenTruncate | fsproto.OpenWrite})
			if err == nil {
				v.release(h)
			}
			return err
		},
		"fallocate": func(h fsproto.Handle) error {
			_, err := try(v, fsproto.Fallocate, fsproto.FallocateReq{Handle: h, Length: 10})
			return err
		},
		"copy": func(h fsproto.Handle) error {
			_, source := v.create("source", fsproto.OpenReadWrite)
			defer v.release(source)
			if _, err := v.write(fsproto.WriteReq{Handle: source}, "data"); err != nil {
				return err
			}
			res, err := try(v, fsproto.CopyFileRange, fsproto.CopyReq{From: source, To: h, Length: 4})
			if err == nil && res.Count != 4 {
				err = fmt.Errorf("copied %d of 4 bytes", res.Count)
			}
			return err
		},
	}
}

func TestAccess(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	do(v, fsproto.Access, fsproto.AccessReq{Node: v.lookup("file").Node, Mask: fsproto.AccessRead | fsproto.AccessWrite})
	do(v, fsproto.Access, fsproto.AccessReq{Node: v.lookup("dir").Node, Mask: 7})
	fail(v, fsproto.Access, fsproto.AccessReq{Node: v.lookup("file").Node, Mask: fsproto.AccessExec}, syscall.EACCES)
	if res := do(v, fsproto.Statfs, fsproto.StatfsReq{Node: root}); res.Blocks == 0 || res.NameLen != 255 {
		t.Errorf("statfs %+v", res)
	}
}

func TestMake(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	dir := do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "d", Mode: 0o777, Umask: 0o027, NewNode: newNode()})
	if dir.Entry.Attr.Mode != fsproto.ModeDir|0o750 || dir.Parent.Nlink < 3 {
		t.Errorf("mkdir: %+v", dir)
	}
	fail(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "file", NewNode: newNode()}, syscall.EEXIST)
	sym := do(v, fsproto.Symlink, fsproto.SymlinkReq{Parent: root, Name: "s", Target: []byte("../../x"), NewNode: newNode()})
	if got := do(v, fsproto.Readlink, fsproto.ReadlinkReq{Node: sym.Entry.Node}); string(got.Target) != "../../x" {
		t.Errorf("target %q", got.Target)
	}
	fail(v, fsproto.Symlink, fsproto.SymlinkReq{Parent: root, Name: "e", NewNode: newNode()}, syscall.ENOENT)
	fail(v, fsproto.Readlink, fsproto.ReadlinkReq{Node: dir.Entry.Node}, syscall.EINVAL)
	for kind, errno := range map[uint32]error{
		fsproto.ModeFIFO: nil, fsproto.ModeSocket: nil, fsproto.ModeRegular: nil,
		fsproto.ModeChar: syscall.EPERM, fsproto.ModeBlock: syscall.EPERM, fsproto.ModeSymlink: syscall.EINVAL,
	} {
		req := fsproto.MknodReq{Parent: root, Name: "node", Mode: kind | 0o666, Umask: 0o022, NewNode: newNode()}
		res, err := try(v, fsproto.Mknod, req)
		if errno != nil {
			want(t, err, errno)
			continue
		}
		must(t, err)
		if res.Entry.Attr.Mode != kind|0o644 {
			t.Errorf("mode %o", res.Entry.Attr.Mode)
		}
		if kind != fsproto.ModeRegular {
			fail(v, fsproto.Open, fsproto.OpenReq{Node: res.Entry.Node, Handle: newHandle()}, syscall.ENXIO)
		}
		do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "node"})
	}
	for _, from := range []string{"file", "link", "fifo"} {
		res := do(v, fsproto.Link, fsproto.LinkReq{Node: v.lookup(from).Node, Parent: dir.Entry.Node, Name: from})
		if res.Entry.Attr.Nlink != 2 || res.Entry.Node != v.lookup(from).Node {
			t.Errorf("link %s: %+v", from, res.Entry)
		}
	}
	fail(v, fsproto.Link, fsproto.LinkReq{Node: v.lookup("dir").Node, Parent: root, Name: "hard"}, syscall.EPERM)
	fail(v, fsproto.Link, fsproto.LinkReq{Node: v.lookup("file").Node, Parent: root, Name: "dir"}, syscall.EEXIST)
}

func TestDefaultACL(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	dir := v.lookup("dir").Node
	// user::rwx group::rwx other::r-x, version 2
	acl := []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff")
	do(v, fsproto.Setxattr, fsproto.SetxattrReq{Node: dir, Name: "system.posix_acl_default", Value: acl})
	res := do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: dir, Name: "d", Mode: 0o777, Umask: 0o077, NewNode: newNode()})
	if res.Entry.Attr.Mode != fsproto.ModeDir|0o775 {
		t.Errorf("mode %o", res.Entry.Attr.Mode)
	}
}

func TestRemove(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	file := v.lookup("file")
	h := v.open(file.Node, fsproto.OpenReadWrite)
	res := do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "file"})
	if res.Node != file.Node || res.Attr.Nlink != 0 {
		t.Errorf("unlink: %+v", res)
	}
	if a := do(v, fsproto.Getattr, fsproto.GetattrReq{Node: file.Node}); a.Attr.Nlink != 0 {
		t.Errorf("unlinked open file: %+v", a)
	}
	do(v, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetMode, Mode: 0o600})
	if b, err := v.read(h, 0, 100); string(b) != "0123456789" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	v.release(h)
	v.e.closeIdle(time.Now()) // as it happens a little later
	fail(v, fsproto.Getattr, fsproto.GetattrReq{Node: file.Node}, syscall.ESTALE)
	if res := do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "fifo"}); res.Node != 0 {
		t.Errorf("unlink of what was not known: %+v", res)
	}
	fail(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "none"}, syscall.ENOENT)
	fail(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "dir"}, syscall.EISDIR)
	fail(v, fsproto.Rmdir, fsproto.UnlinkReq{Parent: root, Name: "link"}, syscall.ENOTDIR)
	fail(v, fsproto.Rmdir, fsproto.UnlinkReq{Parent: root, Name: "dir"}, syscall.ENOTEMPTY)
	dir := v.lookup("dir").Node
	do(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: dir, Name: "inner"})
	if res := do(v, fsproto.Rmdir, fsproto.UnlinkReq{Parent: root, Name: "dir"}); res.Node != dir {
		t.Errorf("rmdir: %+v", res)
	}
}

func TestRename(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	file, dir := v.lookup("file"), v.lookup("dir")
	inner := v.lookup("dir/inner")
	fail(v, fsproto.Rename, fsproto.RenameReq{Parent: root, Name: "file", NewParent: dir.Node, NewName: "inner", Flags: fsproto.RenameNoReplace}, syscall.EEXIST)
	fail(v, fsproto.Rename, fsproto.RenameReq{Parent: root, Name: "none", NewParent: root, NewName: "x"}, syscall.ENOENT)
	fail(v, fsproto.Rename, fsproto.RenameReq{Parent: root, Name: "dir", NewParent: dir.Node, NewName: "x"}, syscall.EINVAL)
	res := do(v, fsproto.Rename, fsproto.RenameReq{Parent: root, Name: "file", NewParent: dir.Node, NewName: "inner"})
	if res.Node != file.Node || res.Replaced != inner.Node || res.ReplacedAttr.Nlink != 0 || res.Attr.Ino != file.Attr.Ino {
		t.Errorf("rename: %+v", res)
	}
	v.content("dir/inner", "0123456789")
	link := v.lookup("link")
	res = do(v, fsproto.Rename, fsproto.RenameReq{Parent: root, Name: "dir", NewParent: root, NewName: "link", Flags: fsproto.RenameExchange})
	if res.Node != dir.Node || res.Replaced != link.Node || v.lookup("dir").Node != link.Node {
		t.Errorf("exchange: %+v", res)
	}
	if got := v.lookup("link/inner"); got.Node != file.Node {
		t.Errorf("after exchange: %+v", got)
	}
}

func TestXattrs(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	file, link := v.lookup("file").Node, v.lookup("link").Node
	set := func(name, value string, flags uint32, errno error) {
		t.Helper()
		_, err := try(v, fsproto.Setxattr, fsproto.SetxattrReq{Node: file, Name: name, Value: []byte(value), Flags: flags})
		want(t, err, errno)
	}
	set("user.a", "value", 0, nil)
	set("user.a", "value", fsproto.XattrCreate, syscall.EEXIST)
	set("user.b", "value", fsproto.XattrReplace, syscall.ENODATA)
	set("trusted.a", "v", 0, syscall.EPERM)
	set("security.capability", "v", 0, syscall.EPERM)
	set("other.a", "v", 0, syscall.EOPNOTSUPP)
	set("plain", "v", 0, syscall.EOPNOTSUPP)
	set("", "v", 0, syscall.ERANGE)
	set("user.", "v", 0, syscall.EINVAL)
	set("user.a\x00b", "v", 0, syscall.EINVAL)
	if res := do(v, fsproto.Getxattr, fsproto.GetxattrReq{Node: file, Name: "user.a"}); string(res.Value) != "value" {
		t.Errorf("value %q", res.Value)
	}
	long := strings.Repeat("x", firstXattr+1)
	set("user.long", long, 0, nil)
	if res := do(v, fsproto.Getxattr, fsproto.GetxattrReq{Node: file, Name: "user.long"}); string(res.Value) != long {
		t.Errorf("long value of %d bytes", len(res.Value))
	}
	for name, errno := range map[string]error{"user.x": syscall.ENODATA, "trusted.x": syscall.ENODATA, "security.x": syscall.ENODATA, "x": syscall.EOPNOTSUPP} {
		fail(v, fsproto.Getxattr, fsproto.GetxattrReq{Node: file, Name: name}, errno)
	}
	names := do(v, fsproto.Listxattr, fsproto.NodeReq{Node: file}).Names
	slices.Sort(names)
	if !slices.Equal(names, []string{"user.a", "user.long"}) {
		t.Errorf("names %q", names)
	}
	do(v, fsproto.Removexattr, fsproto.RemovexattrReq{Node: file, Name: "user.a"})
	fail(v, fsproto.Removexattr, fsproto.RemovexattrReq{Node: file, Name: "user.a"}, syscall.ENODATA)
	fail(v, fsproto.Removexattr, fsproto.RemovexattrReq{Node: file, Name: "trusted.a"}, syscall.EPERM)
	fail(v, fsproto.Setxattr, fsproto.SetxattrReq{Node: link, Name: "user.a"}, syscall.EPERM)
	fail(v, fsproto.Getxattr, fsproto.GetxattrReq{Node: link, Name: "user.a"}, syscall.ENODATA)
}

func TestCred(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, tree)
	fail(v, fsproto.Cred, fsproto.CredReq{ID: 0}, syscall.EINVAL)
	for id := range uint32(MaxCreds) {
		do(v, fsproto.Cred, fsproto.CredReq{ID: id + 1, UID: 1000})
	}
	do(v, fsproto.Cred, fsproto.CredReq{ID: 1, UID: 1001})
	fail(v, fsproto.Cred, fsproto.CredReq{ID: MaxCreds + 1}, syscall.ENFILE)
	for cred, errno := range map[uint32]error{0: nil, 1: nil, MaxCreds + 1: syscall.EINVAL} {
		var res fsproto.AttrRes
		_, err := rpc.CallWith(t.Context(), v.client, fsproto.Getattr, &fsproto.GetattrReq{Node: root}, &res, rpc.Extra{Cred: cred})
		want(t, err, errno)
	}
}
