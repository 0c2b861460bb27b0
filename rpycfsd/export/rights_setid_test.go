package export

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
	"golang.org/x/sys/unix"
)

// setID makes a program of alice's that everybody may write and that runs as her.
func setID(dir string) {
	path := filepath.Join(dir, "file")
	for _, err := range []error{
		os.WriteFile(path, []byte("program"), 0o777),
		os.Chown(path, alice, common),
		unix.Chmod(path, 0o6777),
	} {
		if err != nil {
			panic(err)
		}
	}
}

// TestSetIDOthers: whoever changes a file, its owner and other users alike, takes
// away its set-id bits; chown does too. Root keeps them, as it does locally,
// unless the client says that somebody else is writing.
func TestSetIDOthers(t *testing.T) {
	v := callers(t, Identity{NoRootSquash: true}, setID)
	for name, u := range map[string]*env{
		"owner": v.as(alice), "member": v.as(bob, common), "other": v.as(bob), "account": account(t, bob, setID),
	} {
		file := u.lookup("file").Node
		for what, change := range u.changes(file) {
			must(t, unix.Chmod(u.path("file"), 0o6777))
			h := u.open(file, fsproto.OpenReadWrite)
			must(t, change(h))
			u.release(h)
			if u.mode("file", 0o777); t.Failed() {
				t.Fatalf("after %s by %s", what, name)
			}
		}
		must(t, os.RemoveAll(u.path("source")))
	}
	file, r := v.lookup("file").Node, v.as(0)
	must(t, unix.Chmod(v.path("file"), 0o6777))
	do(v.as(alice, common, bob), fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetGID, GID: bob})
	v.mode("file", 0o777)
	must(t, unix.Chmod(v.path("file"), 0o6777))
	for what, change := range r.changes(file) {
		h := r.open(file, fsproto.OpenReadWrite)
		must(t, change(h))
		r.release(h)
		if r.mode("file", 0o6777); t.Failed() {
			t.Fatalf("after %s by root", what)
		}
	}
	h := r.open(file, fsproto.OpenReadWrite)
	for what, change := range map[string]func(){
		"write": func() {
			_, err := r.write(fsproto.WriteReq{Handle: h, Flags: fsproto.WriteKillPriv}, "x")
			must(t, err)
		},
		"ftruncate": func() {
			do(r, fsproto.Setattr, fsproto.SetattrReq{Node: file, Handle: h, Mask: fsproto.SetSize | fsproto.SetKillPriv})
		},
		"truncate": func() {
			do(r, fsproto.Setattr, fsproto.SetattrReq{Node: file, Mask: fsproto.SetSize | fsproto.SetKillPriv})
		},
		"open": func() { r.open(file, fsproto.OpenWrite|fsproto.OpenTruncate|fsproto.OpenKillPriv) },
	} {
		must(t, unix.Chmod(v.path("file"), 0o6777))
		change()
		if r.mode("file", 0o777); t.Failed() {
			t.Fatalf("after %s by root for somebody else", what)
		}
	}
}

// TestOpener: what is done through an open file is done with the rights of who
// opened it, whoever asks.
func TestOpener(t *testing.T) {
	v := callers(t, Identity{NoRootSquash: true}, setID)
	r, a := v.as(0), v.as(alice)
	file := v.lookup("file").Node
	for _, c := range []struct {
		opener, writer *env
		mode           uint32
	}{{a, r, 0o777}, {r, a, 0o6777}} {
		for _, what := range []string{"write", "append", "ftruncate", "fallocate", "copy"} {
			must(t, unix.Chmod(v.path("file"), 0o6777))
			h := c.opener.open(file, fsproto.OpenReadWrite)
			must(t, c.writer.changes(file)[what](h))
			do(c.writer, fsproto.Fsync, fsproto.FsyncReq{Handle: h})
			if v.mode("file", c.mode); t.Failed() {
				t.Fatalf("%s with credential %d through a file that %d opened", what, c.writer.cred, c.opener.cred)
			}
			c.opener.release(h)
			must(t, os.RemoveAll(v.path("source")))
		}
	}
	// A change of owner is the caller's, through an open file too.
	h := r.open(file, fsproto.OpenReadWrite)
	fail(a, fsproto.Setattr, fsproto.SetattrReq{Node: file, Handle: h, Mask: fsproto.SetSize | fsproto.SetUID, UID: bob}, syscall.EPERM)
	v.owner("file", alice, common)
	// An open file that is nobody's is not the daemon's.
	v.s.mu.Lock()
	v.s.handles[h].as = nil
	v.s.mu.Unlock()
	_, err := r.write(fsproto.WriteReq{Handle: h}, "x")
	want(t, err, syscall.EPERM)
}

// TestSetIDKept: set-id bits can be given by those who may, and are inherited.
func TestSetIDKept(t *testing.T) {
	v := callers(t, Identity{}, nil)
	a := v.as(alice)
	h := newHandle()
	do(a, fsproto.Create, fsproto.CreateReq{Parent: root, Name: "created", Mode: 0o6755, Flags: fsproto.OpenWrite, NewNode: newNode(), Handle: h})
	v.mode("created", 0o6755)
	do(a, fsproto.Mknod, fsproto.MknodReq{Parent: root, Name: "made", Mode: fsproto.ModeRegular | 0o4755, NewNode: newNode()})
	v.mode("made", 0o4755)
	file, h := a.create("file", fsproto.OpenWrite)
	do(a, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetMode, Mode: 0o6755})
	v.mode("file", 0o6755)
	must(t, os.Chown(v.path("file"), alice, bob))
	do(a, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetMode, Mode: 0o6755})
	v.mode("file", 0o4755) // not in the group
	a.release(h)
}

// TestKernelRules: what depends on who owns a file.
func TestKernelRules(t *testing.T) {
	v := callers(t, Identity{}, nil)
	a, b := v.as(alice), v.as(bob)
	file, h := a.create("file", fsproto.OpenRead)
	a.release(h)
	fail(b, fsproto.Open, fsproto.OpenReq{Node: file.Node, Handle: newHandle(), Flags: fsproto.OpenRead | fsproto.OpenNoAtime}, syscall.EPERM)
	a.open(file.Node, fsproto.OpenRead|fsproto.OpenNoAtime)
	_, err := try(b, fsproto.Link, fsproto.LinkReq{Node: file.Node, Parent: root, Name: "link"})
	if protected, _ := os.ReadFile("/proc/sys/fs/protected_hardlinks"); string(protected) == "1\n" {
		want(t, err, syscall.EPERM)
	} else {
		must(t, err)
	}
	do(a, fsproto.Link, fsproto.LinkReq{Node: file.Node, Parent: root, Name: "own-link"})
}

// TestSideBySide has two users of a trusted client and one account do the same
// things at the same time, again and again: every result is its maker's.
func TestSideBySide(t *testing.T) {
	v := callers(t, Identity{}, nil)
	acc := account(t, bob+1, nil)
	rounds := 1000
	if n, err := strconv.Atoi(os.Getenv("RPYCFS_IDENTITY_OPS")); err == nil {
		rounds = n
	}
	const workers = 2
	var working sync.WaitGroup
	for uid, u := range map[uint32]*env{alice: v.as(alice), bob: v.as(bob), bob + 1: acc} {
		for w := range workers {
			working.Go(func() {
				// A file is made, written and removed: three operations.
				for i := range rounds / 3 / 3 / workers {
					if err := u.makeOne(fmt.Sprintf("%d-%d-%d", uid, w, i), uid); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	working.Wait()
}

// makeOne makes, writes and removes an entry of some kind, which must be uid's.
func (v *env) makeOne(name string, uid uint32) error {
	node, h := newNode(), newHandle()
	res, err := try(v, fsproto.Create, fsproto.CreateReq{Parent: root, Name: name, Mode: 0o4700, Flags: fsproto.OpenWrite, NewNode: node, Handle: h})
	if err != nil {
		return err
	}
	if a := res.Entry.Attr; a.UID != uid || a.GID != uid || a.Mode&0o7777 != 0o4700 {
		return fmt.Errorf("%s is %d:%d, mode %o", name, a.UID, a.GID, a.Mode)
	}
	written, err := v.write(fsproto.WriteReq{Handle: h}, name)
	if err != nil {
		return err
	}
	if a := written.Attr; a.Mode&0o7777 != 0o700 || a.Size != uint64(len(name)) {
		return fmt.Errorf("%s has mode %o and size %d after a write", name, a.Mode, a.Size)
	}
	if _, err := try(v, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: name}); err != nil {
		return err
	}
	if _, err := try(v, fsproto.Release, fsproto.ReleaseReq{Handle: h}); err != nil {
		return err
	}
	_, err = try(v, fsproto.Forget, fsproto.ForgetReq{Nodes: []fsproto.Forgotten{{Node: res.Entry.Node, Stamp: 1 << 62}}})
	return err
}

// BenchmarkLookup is a small call as the daemon and as somebody else, for what is
// there, so that the table of nodes has a part in it, and for what is not.
func BenchmarkLookup(b *testing.B) {
	needRoot(b)
	for _, c := range []struct {
		name  string
		runAs uint8
	}{{"none", fsproto.RunAsDaemon}, {"file", fsproto.RunAsDaemon}, {"none", fsproto.RunAsCaller}} {
		runAs := c.runAs
		b.Run(map[uint8]string{fsproto.RunAsDaemon: "daemon", fsproto.RunAsCaller: "caller"}[runAs]+"/"+c.name, func(b *testing.B) {
			dir := b.TempDir()
			must(b, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
			e, err := Open(Config{Path: dir, RunAs: runAs})
			must(b, err)
			defer e.Close()
			s, err := e.NewSession(Identity{RunAs: runAs})
			must(b, err)
			defer s.Close()
			serve := map[uint16]method{}
			for _, m := range methods {
				serve[m.op.Number] = m
			}
			call := func(op *rpc.Info, req, res rpc.Message) {
				must(b, serve[op.Number].call(s, b.Context(), &rpc.Request{Op: op}, req, res))
			}
			call(&fsproto.Attach.Info, &fsproto.AttachReq{}, &fsproto.AttachRes{})
			b.ReportAllocs()
			for b.Loop() {
				call(&fsproto.Lookup.Info, &fsproto.LookupReq{Parent: root, Name: c.name}, &fsproto.LookupRes{})
			}
		})
	}
}
