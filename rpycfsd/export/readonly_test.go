package export

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// attrs describes everything below a directory without reading it.
func attrs(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintf(&b, "%s %+v\n", path, hideAtime(info))
		}
		return err
	}))
	return b.String()
}

// hideAtime takes away the access time of directories, which walking moves.
func hideAtime(info os.FileInfo) syscall.Stat_t {
	st := *info.Sys().(*syscall.Stat_t)
	if info.IsDir() {
		st.Atim = syscall.Timespec{}
	}
	return st
}

// snapshot describes everything below a directory, contents included.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintln(&b, path, st.Ino, st.Mode, st.Uid, st.Gid, st.Size, st.Nlink, st.Mtim, st.Ctim)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			fmt.Fprintf(&b, "%q %v\n", data, err)
		}
		return nil
	}))
	return b.String()
}

// TestReadOnlyTable sends every operation that changes something, so that a new
// one cannot be forgotten.
func TestReadOnlyTable(t *testing.T) {
	for _, cfg := range []struct {
		name string
		cfg  Config
		id   Identity
	}{{"export", Config{ReadOnly: true}, Identity{}}, {"user", Config{}, Identity{ReadOnly: true}}} {
		t.Run(cfg.name, func(t *testing.T) {
			v := newEnv(t, cfg.cfg, cfg.id, tree)
			file := v.lookup("file").Node
			before := snapshot(t, v.dir)
			requests := map[uint16]rpc.Message{
				fsproto.Create.Number:  &fsproto.CreateReq{Parent: root, Name: "new", NewNode: newNode(), Handle: newHandle()},
				fsproto.Mkdir.Number:   &fsproto.MkdirReq{Parent: root, Name: "new", NewNode: newNode()},
				fsproto.Mknod.Number:   &fsproto.MknodReq{Parent: root, Name: "new", NewNode: newNode()},
				fsproto.Symlink.Number: &fsproto.SymlinkReq{Parent: root, Name: "new", Target: []byte("x"), NewNode: newNode()},
				fsproto.Link.Number:    &fsproto.LinkReq{Node: file, Parent: root, Name: "new"},
			}
			n := 0
			for _, m := range methods {
				if m.op.Access != rpc.Change {
					continue
				}
				n++
				req := requests[m.op.Number]
				if req == nil {
					req = m.op.NewReq()
				}
				err := m.call(v.s, context.Background(), &rpc.Request{Op: m.op}, req, m.op.NewRes())
				want(t, err, syscall.EROFS)
			}
			if n < 10 {
				t.Errorf("only %d operations change anything", n)
			}
			if snapshot(t, v.dir) != before {
				t.Error("the tree has changed")
			}
		})
	}
}

// TestReadOnlyOrder: existing names are found as on a read-only file system of
// Linux's.
func TestReadOnlyOrder(t *testing.T) {
	v := newEnv(t, Config{}, Identity{ReadOnly: true}, tree)
	file, dir := v.lookup("file").Node, v.lookup("dir").Node
	before := snapshot(t, v.dir)
	create := func(name string, flags uint32) fsproto.CreateReq {
		return fsproto.CreateReq{Parent: root, Name: name, Flags: flags, NewNode: newNode(), Handle: newHandle()}
	}
	do(v, fsproto.Create, create("file", fsproto.OpenRead))
	fail(v, fsproto.Create, create("file", fsproto.OpenRead|fsproto.OpenExclusive), syscall.EEXIST)
	fail(v, fsproto.Create, create("none", fsproto.OpenRead|fsproto.OpenExclusive), syscall.EROFS)
	fail(v, fsproto.Create, create("file", fsproto.OpenWrite), syscall.EROFS)
	fail(v, fsproto.Create, create("file", fsproto.OpenRead|fsproto.OpenTruncate), syscall.EROFS)
	fail(v, fsproto.Create, create("dir", fsproto.OpenWrite), syscall.EISDIR)
	for _, flags := range []uint32{
		fsproto.OpenWrite, fsproto.OpenReadWrite, fsproto.OpenRead | fsproto.OpenTruncate,
		fsproto.OpenWrite | fsproto.OpenAppend, fsproto.OpenReadWrite | fsproto.OpenTruncate,
	} {
		fail(v, fsproto.Open, fsproto.OpenReq{Node: file, Handle: newHandle(), Flags: flags}, syscall.EROFS)
	}
	h := v.open(file, fsproto.OpenRead|fsproto.OpenAppend)
	if b, err := v.read(h, 0, 3); string(b) != "012" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	_, err := v.write(fsproto.WriteReq{Handle: h}, "x")
	want(t, err, syscall.EROFS)
	fail(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "dir", NewNode: newNode()}, syscall.EEXIST)
	fail(v, fsproto.Mknod, fsproto.MknodReq{Parent: root, Name: "file", NewNode: newNode()}, syscall.EEXIST)
	fail(v, fsproto.Symlink, fsproto.SymlinkReq{Parent: root, Name: "link", Target: []byte("x"), NewNode: newNode()}, syscall.EEXIST)
	fail(v, fsproto.Link, fsproto.LinkReq{Node: file, Parent: root, Name: "fifo"}, syscall.EEXIST)
	fail(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: file, Name: "x", NewNode: newNode()}, syscall.ENOTDIR)
	fail(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: 4321, Name: "x", NewNode: newNode()}, syscall.ESTALE)
	fail(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "none"}, syscall.EROFS)
	fail(v, fsproto.Access, fsproto.AccessReq{Node: dir, Mask: fsproto.AccessWrite}, syscall.EROFS)
	do(v, fsproto.Access, fsproto.AccessReq{Node: v.lookup("fifo").Node, Mask: fsproto.AccessWrite})
	if snapshot(t, v.dir) != before {
		t.Error("the tree has changed")
	}
}
