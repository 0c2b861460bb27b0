package export

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/identity"
	"golang.org/x/sys/unix"
)

// needRoot ends a test about the rights of others for ordinary users, who cannot
// serve with them; that Open says so is tested instead.
func needRoot(t testing.TB) {
	t.Helper()
	if isRoot() {
		return
	}
	if _, err := Open(Config{Path: t.TempDir(), RunAs: fsproto.RunAsCaller}); err == nil {
		t.Error("an ordinary user's daemon serves with the rights of others")
	}
	t.Skip("acting as somebody else takes root")
}

// Users of the tests. All are in group common, and each in the group of its own
// number.
const (
	alice  = 5001
	bob    = 5002
	common = 5100
)

// callers exports a directory that everybody may write to a trusted client.
func callers(t *testing.T, id Identity, prepare func(dir string)) *env {
	t.Helper()
	needRoot(t)
	id.RunAs = fsproto.RunAsCaller
	return newEnv(t, Config{RunAs: fsproto.RunAsCaller}, id, prepare)
}

// as returns v with a credential that it registers: uid, the group of the same
// number, and others.
func (v *env) as(uid uint32, groups ...uint32) *env {
	v.t.Helper()
	u := *v
	u.cred = uint32(lastNumber.Add(1))
	do(v, fsproto.Cred, fsproto.CredReq{ID: u.cred, UID: uid, GID: uid, Groups: groups})
	return &u
}

// account returns an environment of its own for the session of a local account.
func account(t *testing.T, uid uint32, prepare func(dir string)) *env {
	t.Helper()
	needRoot(t)
	id, err := identity.New(uid, uid, []uint32{common})
	must(t, err)
	return newEnv(t, Config{RunAs: fsproto.RunAsAccount}, Identity{RunAs: fsproto.RunAsAccount, Account: id}, prepare)
}

// stat returns what the server's disk says of a name.
func (v *env) stat(name string) unix.Stat_t {
	v.t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(v.path(name), &st); err != nil {
		v.t.Fatalf("%s: %v", name, err)
	}
	return st
}

func (v *env) owner(name string, uid, gid uint32) {
	v.t.Helper()
	if st := v.stat(name); st.Uid != uid || st.Gid != gid {
		v.t.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, uid, gid)
	}
}

func (v *env) mode(name string, want uint32) {
	v.t.Helper()
	if st := v.stat(name); st.Mode&0o7777 != want {
		v.t.Errorf("%s has mode %o, want %o", name, st.Mode&0o7777, want)
	}
}

// makeAll makes an entry of every kind in a directory: prefix and the kind.
func (v *env) makeAll(parent fsproto.Node, prefix string) {
	v.t.Helper()
	h := newHandle()
	do(v, fsproto.Create, fsproto.CreateReq{Parent: parent, Name: prefix + "file", Mode: 0o644, Flags: fsproto.OpenWrite, NewNode: newNode(), Handle: h})
	v.release(h)
	do(v, fsproto.Mkdir, fsproto.MkdirReq{Parent: parent, Name: prefix + "dir", Mode: 0o755, NewNode: newNode()})
	do(v, fsproto.Mknod, fsproto.MknodReq{Parent: parent, Name: prefix + "fifo", Mode: fsproto.ModeFIFO | 0o600, NewNode: newNode()})
	do(v, fsproto.Mknod, fsproto.MknodReq{Parent: parent, Name: prefix + "socket", Mode: fsproto.ModeSocket | 0o600, NewNode: newNode()})
	do(v, fsproto.Symlink, fsproto.SymlinkReq{Parent: parent, Name: prefix + "symlink", Target: []byte("x"), NewNode: newNode()})
	h = newHandle()
	tmp := do(v, fsproto.Tmpfile, fsproto.TmpfileReq{Parent: parent, Mode: 0o600, Flags: fsproto.OpenReadWrite, NewNode: newNode(), Handle: h})
	do(v, fsproto.Link, fsproto.LinkReq{Node: tmp.Entry.Node, Parent: parent, Name: prefix + "tmpfile"})
	v.release(h)
}

var kinds = []string{"file", "dir", "fifo", "socket", "symlink", "tmpfile"}

// TestOwners: whatever is made is its maker's, and in a set-group-id directory
// its group the directory's, also for a directory, which hands it on.
func TestOwners(t *testing.T) {
	prepare := func(dir string) {
		must(t, os.Mkdir(filepath.Join(dir, "setgid"), 0o777))
		must(t, os.Chown(filepath.Join(dir, "setgid"), 0, common))
		must(t, unix.Chmod(filepath.Join(dir, "setgid"), 0o2777))
	}
	check := func(v *env, prefix string, uid uint32) {
		v.makeAll(root, prefix)
		v.makeAll(v.lookup("setgid").Node, prefix)
		for _, kind := range kinds {
			v.owner(prefix+kind, uid, uid)
			v.owner("setgid/"+prefix+kind, uid, common)
		}
		v.mode("setgid/"+prefix+"dir", 0o2755)
	}
	v := callers(t, Identity{NoRootSquash: true}, prepare)
	check(v.as(alice), "alice-", alice)
	check(v.as(bob, common), "bob-", bob)
	check(v.as(0), "root-", 0)
	check(v, "own-", 0)
	v = callers(t, Identity{}, prepare)
	check(v.as(0), "squashed-", identity.Nobody)
	check(v, "own-", identity.Nobody)
	check(v.as(alice), "alice-", alice)
	v = account(t, bob, prepare)
	check(v, "bob-", bob)
	check(v.as(alice), "not-alice-", bob) // what the client says counts for nothing
}

// TestAttachTells: a client learns whose rights decide.
func TestAttachTells(t *testing.T) {
	attach := func(v *env, id Identity) fsproto.AttachRes {
		o := *v
		o.s = v.session(id)
		o.client = connect(t, o.s)
		return do(&o, fsproto.Attach, fsproto.AttachReq{})
	}
	for _, c := range []struct {
		id    Identity
		runAs uint8
		uid   uint32
	}{
		{Identity{}, fsproto.RunAsCaller, identity.Nobody},
		{Identity{NoRootSquash: true}, fsproto.RunAsCaller, 0},
	} {
		v := callers(t, c.id, nil)
		c.id.RunAs = fsproto.RunAsCaller
		if res := attach(v, c.id); res.RunAs != c.runAs || res.UID != c.uid || res.GID != c.uid {
			t.Errorf("attach: %+v", res)
		}
	}
	v := account(t, alice, nil)
	id, err := identity.New(alice, bob, nil)
	must(t, err)
	if res := attach(v, Identity{RunAs: fsproto.RunAsAccount, Account: id}); res.RunAs != fsproto.RunAsAccount || res.UID != alice || res.GID != bob {
		t.Errorf("attach: %+v", res)
	}
	_, err = v.e.NewSession(Identity{})
	if err == nil {
		t.Error("a session with the daemon's rights where there are none to be had")
	}
	_, err = newEnv(t, Config{}, Identity{}, nil).e.NewSession(Identity{RunAs: fsproto.RunAsCaller})
	if err == nil {
		t.Error("a caller's session where all is the daemon's")
	}
}

// TestPermissions: the kernel decides about everything that one user does to
// what belongs to another.
func TestPermissions(t *testing.T) {
	v := callers(t, Identity{}, nil)
	a, b := v.as(alice), v.as(bob)
	must(t, unix.Chmod(v.dir, 0o1777))
	mine := do(a, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "mine", Mode: 0o700, NewNode: newNode()}).Entry.Node
	file, h := a.create("file", fsproto.OpenReadWrite)
	_, err := a.write(fsproto.WriteReq{Handle: h}, "secret")
	must(t, err)
	do(a, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetMode, Mode: 0o600})
	do(a, fsproto.Mkdir, fsproto.MkdirReq{Parent: mine, Name: "below", Mode: 0o777, NewNode: newNode()})

	for _, o := range []*env{b, v.as(0), v} { // root is nobody
		fail(o, fsproto.Open, fsproto.OpenReq{Node: file.Node, Handle: newHandle(), Flags: fsproto.OpenRead}, syscall.EACCES)
		fail(o, fsproto.Open, fsproto.OpenReq{Node: file.Node, Handle: newHandle(), Flags: fsproto.OpenWrite}, syscall.EACCES)
		fail(o, fsproto.Create, fsproto.CreateReq{Parent: root, Name: "file", Flags: fsproto.OpenRead, NewNode: newNode(), Handle: newHandle()}, syscall.EACCES)
		fail(o, fsproto.Opendir, fsproto.OpenReq{Node: mine, Handle: newHandle()}, syscall.EACCES)
		fail(o, fsproto.Lookup, fsproto.LookupReq{Parent: mine, Name: "below"}, syscall.EACCES)
		fail(o, fsproto.Lookup, fsproto.LookupReq{Parent: mine, Name: "none"}, syscall.EACCES)
		fail(o, fsproto.Mkdir, fsproto.MkdirReq{Parent: mine, Name: "x", NewNode: newNode()}, syscall.EACCES)
		fail(o, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetMode, Mode: 0o666}, syscall.EPERM)
		fail(o, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetUID, UID: bob}, syscall.EPERM)
		fail(o, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetSize}, syscall.EACCES)
		fail(o, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetAtimeNow | fsproto.SetMtimeNow}, syscall.EACCES)
		fail(o, fsproto.Setxattr, fsproto.SetxattrReq{Node: file.Node, Name: "user.x", Value: []byte("x")}, syscall.EACCES)
		fail(o, fsproto.Getxattr, fsproto.GetxattrReq{Node: file.Node, Name: "user.x"}, syscall.EACCES)
		fail(o, fsproto.Unlink, fsproto.UnlinkReq{Parent: root, Name: "file"}, syscall.EPERM) // sticky
		fail(o, fsproto.Rename, fsproto.RenameReq{Parent: root, Name: "file", NewParent: root, NewName: "other"}, syscall.EPERM)
		fail(o, fsproto.Access, fsproto.AccessReq{Node: file.Node, Mask: fsproto.AccessRead}, syscall.EACCES)
		fail(o, fsproto.Mknod, fsproto.MknodReq{Parent: root, Name: "dev", Mode: fsproto.ModeChar | 0o600, RdevMajor: 1, RdevMinor: 3, NewNode: newNode()}, syscall.EPERM)
		fail(o, fsproto.Attach, fsproto.AttachReq{Path: []string{"mine", "below"}}, syscall.EACCES)
	}
	fail(b, fsproto.Write, fsproto.WriteReq{Handle: 1 << 40}, syscall.EBADF)
	fail(a, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetUID, UID: bob}, syscall.EPERM)
	fail(a, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetGID, GID: common}, syscall.EPERM)
	do(v.as(alice, common), fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetGID, GID: common})
	v.owner("file", alice, common)
	v.content("file", "secret")
}

// TestListOnly: reading a directory and searching it are two rights.
func TestListOnly(t *testing.T) {
	v := callers(t, Identity{}, nil)
	a := v.as(alice)
	list := do(a, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "list", Mode: 0o700, NewNode: newNode()}).Entry.Node
	do(a, fsproto.Mkdir, fsproto.MkdirReq{Parent: list, Name: "entry", Mode: 0o700, NewNode: newNode()})
	do(a, fsproto.Setattr, fsproto.SetattrReq{Node: list, Mask: fsproto.SetMode, Mode: 0o400})
	h := newHandle()
	do(a, fsproto.Opendir, fsproto.OpenReq{Node: list, Handle: h})
	res := do(a, fsproto.Readdir, fsproto.ReaddirReq{Handle: h, Size: 4096, Entries: true})
	if len(res.Entries) != 1 || res.Entries[0].Name != "entry" || res.Entries[0].Known {
		t.Errorf("listed %+v", res.Entries)
	}
	fail(a, fsproto.Lookup, fsproto.LookupReq{Parent: list, Name: "entry"}, syscall.EACCES)
	do(a, fsproto.Setattr, fsproto.SetattrReq{Node: list, Mask: fsproto.SetMode, Mode: 0o100})
	fail(a, fsproto.Opendir, fsproto.OpenReq{Node: list, Handle: newHandle()}, syscall.EACCES)
	do(a, fsproto.Lookup, fsproto.LookupReq{Parent: list, Name: "entry"})
}

// TestRootUnsquashed may what root may: give files away, make devices, see and
// set attributes of the system.
func TestRootUnsquashed(t *testing.T) {
	v := callers(t, Identity{NoRootSquash: true}, nil)
	r, a := v.as(0), v.as(alice)
	file, h := r.create("file", fsproto.OpenReadWrite)
	do(r, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetUID | fsproto.SetGID | fsproto.SetMode, UID: alice, GID: bob, Mode: 0o6755})
	v.owner("file", alice, bob)
	v.mode("file", 0o6755)
	do(r, fsproto.Mknod, fsproto.MknodReq{Parent: root, Name: "null", Mode: fsproto.ModeChar | 0o666, RdevMajor: 1, RdevMinor: 3, NewNode: newNode()})
	if st := v.stat("null"); st.Mode != fsproto.ModeChar|0o666 || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device %o %d", st.Mode, st.Rdev)
	}
	fail(r, fsproto.Open, fsproto.OpenReq{Node: v.lookup("null").Node, Handle: newHandle()}, syscall.ENXIO)
	do(r, fsproto.Setxattr, fsproto.SetxattrReq{Node: file.Node, Name: "trusted.x", Value: []byte("v")})
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // CAP_NET_BIND_SERVICE, version 2
	do(r, fsproto.Setxattr, fsproto.SetxattrReq{Node: file.Node, Name: "security.capability", Value: capability})
	if res := do(r, fsproto.Listxattr, fsproto.NodeReq{Node: file.Node}); fmt.Sprint(slices.Sorted(slices.Values(res.Names))) != "[security.capability trusted.x]" {
		t.Errorf("root lists %v", res.Names)
	}
	if res := do(a, fsproto.Listxattr, fsproto.NodeReq{Node: file.Node}); fmt.Sprint(res.Names) != "[security.capability]" {
		t.Errorf("alice lists %v", res.Names)
	}
	fail(a, fsproto.Getxattr, fsproto.GetxattrReq{Node: file.Node, Name: "trusted.x"}, syscall.ENODATA)
	fail(a, fsproto.Setxattr, fsproto.SetxattrReq{Node: file.Node, Name: "trusted.x", Value: []byte("w")}, syscall.EPERM)
	fail(a, fsproto.Setxattr, fsproto.SetxattrReq{Node: file.Node, Name: "security.capability", Value: capability}, syscall.EPERM)
	r.release(h)
	// Root writes what nobody may.
	do(r, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetMode, Mode: 0})
	r.open(file.Node, fsproto.OpenReadWrite)
}

// TestPrograms: who may execute a file but not read it can have it read for
// execve(2), and not otherwise.
func TestPrograms(t *testing.T) {
	v := callers(t, Identity{}, func(dir string) {
		for name, mode := range map[string]fs.FileMode{"x": 0o111, "rx": 0o555, "none": 0o700, "r": 0o444} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte("program"), mode))
		}
		must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o111))
	})
	a := v.as(alice)
	open := func(name string, flags uint32) error {
		_, err := try(a, fsproto.Open, fsproto.OpenReq{Node: v.lookup(name).Node, Handle: newHandle(), Flags: flags})
		return err
	}
	const exec = fsproto.OpenRead | fsproto.OpenExec
	for _, name := range []string{"x", "rx"} {
		h := newHandle()
		do(a, fsproto.Open, fsproto.OpenReq{Node: v.lookup(name).Node, Handle: h, Flags: exec})
		if b, err := a.read(h, 0, 100); string(b) != "program" || err != nil {
			t.Errorf("%s: read %q, %v", name, b, err)
		}
		_, err := a.write(fsproto.WriteReq{Handle: h}, "x")
		want(t, err, syscall.EBADF)
		a.release(h)
	}
	want(t, open("x", fsproto.OpenRead), syscall.EACCES)
	want(t, open("x", fsproto.OpenReadWrite|fsproto.OpenExec), syscall.EACCES)
	want(t, open("x", exec|fsproto.OpenTruncate), syscall.EACCES)
	want(t, open("none", exec), syscall.EACCES)
	want(t, open("dir", exec), syscall.EISDIR)
	must(t, open("r", exec)) // that it cannot be executed is execve's to find out
	v.content("x", "program")
}

// TestAccessBits: one answer tells about all rights, in every mode.
func TestAccessBits(t *testing.T) {
	prepare := func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o754))
		must(t, os.Chown(filepath.Join(dir, "file"), alice, common))
	}
	check := func(v *env, want uint8) {
		t.Helper()
		node := v.lookup("file").Node
		for mask := range uint8(8) {
			res, err := try(v, fsproto.Access, fsproto.AccessReq{Node: node, Mask: mask})
			switch {
			case mask&^want != 0:
				if err == nil {
					t.Errorf("mask %d is granted, want %d", mask, want)
				}
			case err != nil || res.Attr.Access != fsproto.AccessKnown|want:
				t.Errorf("mask %d: access %d (%v), want %d", mask, res.Attr.Access, err, want)
			}
		}
	}
	v := callers(t, Identity{NoRootSquash: true}, prepare)
	check(v.as(alice), fsproto.AccessRead|fsproto.AccessWrite|fsproto.AccessExec)
	check(v.as(bob, common), fsproto.AccessRead|fsproto.AccessExec)
	check(v.as(bob), fsproto.AccessRead)
	check(v.as(0), fsproto.AccessRead|fsproto.AccessWrite|fsproto.AccessExec)
	check(account(t, bob, prepare), fsproto.AccessRead|fsproto.AccessExec)
	check(newEnv(t, Config{}, Identity{}, prepare), fsproto.AccessRead|fsproto.AccessWrite|fsproto.AccessExec)
	check(newEnv(t, Config{ReadOnly: true}, Identity{}, prepare), fsproto.AccessRead|fsproto.AccessExec)
}

// TestCreds: bounded, checked, and replacing one changes nothing that runs or is
// open.
func TestCreds(t *testing.T) {
	v := callers(t, Identity{}, nil)
	a := v.as(alice)
	file, h := a.create("file", fsproto.OpenReadWrite)
	do(a, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetMode, Mode: 0o4700})
	do(v, fsproto.Cred, fsproto.CredReq{ID: a.cred, UID: bob, GID: bob})
	fail(a, fsproto.Open, fsproto.OpenReq{Node: file.Node, Handle: newHandle()}, syscall.EACCES)
	_, err := a.write(fsproto.WriteReq{Handle: h}, "still open")
	must(t, err)
	v.content("file", "still open")
	if got := v.s.handles[h].as.UID(); got != alice {
		t.Errorf("the open file is %d's", got)
	}
	for _, bad := range []fsproto.CredReq{{ID: 0, UID: 1}, {ID: 9, UID: 1<<32 - 1}, {ID: 9, GID: 1<<32 - 1}, {ID: 9, Groups: []uint32{1<<32 - 1}}} {
		fail(v, fsproto.Cred, bad, syscall.EINVAL)
	}
	fail(&env{t: t, client: v.client, cred: 424242}, fsproto.Getattr, fsproto.GetattrReq{Node: root}, syscall.EINVAL)
	for i := range MaxCreds - 1 {
		do(v, fsproto.Cred, fsproto.CredReq{ID: uint32(1<<20 + i), UID: 1})
	}
	fail(v, fsproto.Cred, fsproto.CredReq{ID: 1 << 30, UID: 1}, syscall.ENFILE)
	do(v, fsproto.Cred, fsproto.CredReq{ID: a.cred, UID: alice, GID: alice})
}

// TestSquash: as the kernel's NFS server has it.
func TestSquash(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		no       bool
		uid, gid uint32
		groups   []uint32
		want     string
	}{
		{false, 0, 0, []uint32{0, 5}, "uid=65534 gid=65534 groups=[5 65534]"},
		{false, 5, 0, []uint32{0}, "uid=5 gid=65534 groups=[65534]"},
		{false, 0, 5, nil, "uid=65534 gid=5 groups=[]"},
		{true, 0, 0, []uint32{0, 5}, "uid=0 gid=0 groups=[0 5]"},
		{true, 5, 0, []uint32{0}, "uid=5 gid=0 groups=[0]"},
	} {
		id, err := Identity{NoRootSquash: c.no}.squash(c.uid, c.gid, c.groups)
		if err != nil || id.String() != c.want || id.IsRoot() != (c.no && c.uid == 0) {
			t.Errorf("%+v: %v, %v", c, id, err)
		}
	}
}

// TestFoundAgain: that a node's descriptor was closed, or that it must be checked
// where it is, is no matter of its user's rights: directories above may be closed
// to them.
func TestFoundAgain(t *testing.T) {
	v := callers(t, Identity{}, nil)
	a, b := v.as(alice), v.as(bob)
	closed := do(a, fsproto.Mkdir, fsproto.MkdirReq{Parent: root, Name: "closed", Mode: 0o711, NewNode: newNode()}).Entry.Node
	do(a, fsproto.Mkdir, fsproto.MkdirReq{Parent: closed, Name: "open", Mode: 0o777, NewNode: newNode()})
	open := v.lookup("closed/open").Node
	file := do(b, fsproto.Create, fsproto.CreateReq{Parent: open, Name: "bobs", Mode: 0o600, Flags: fsproto.OpenRead, NewNode: newNode(), Handle: newHandle()}).Entry
	do(a, fsproto.Setattr, fsproto.SetattrReq{Node: closed, Mask: fsproto.SetMode, Mode: 0o700})
	fail(b, fsproto.Lookup, fsproto.LookupReq{Parent: closed, Name: "open"}, syscall.EACCES)
	for range 2 {
		v.forgetDescriptors()
		do(b, fsproto.Getattr, fsproto.GetattrReq{Node: file.Node})
		do(b, fsproto.Setattr, fsproto.SetattrReq{Node: file.Node, Mask: fsproto.SetMode, Mode: 0o640})
		do(b, fsproto.Lookup, fsproto.LookupReq{Parent: open, Name: "bobs"})
		b.release(b.open(file.Node, fsproto.OpenReadWrite))
		if res := do(b, fsproto.Resolve, fsproto.ResolveReq{FileHandle: file.FileHandle}); res.Entry.Node != file.Node {
			t.Errorf("resolved %d, want %d", res.Entry.Node, file.Node)
		}
	}
}

// forgetDescriptors closes idle descriptors, those of directories too, and has
// all nodes checked again.
func (v *env) forgetDescriptors() {
	e := v.e
	e.mu.Lock()
	limit := e.cfg.Descriptors
	e.cfg.Descriptors = 0
	closing := e.evict()
	e.cfg.Descriptors = limit
	e.mu.Unlock()
	closeAll(closing)
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	for _, r := range v.s.refs {
		r.checked = r.checked.Add(-2 * recheckAfter)
	}
}

// TestPanicInHandler: on whatever thread, it is an error of that call alone.
func TestPanicInHandler(t *testing.T) {
	v := callers(t, Identity{}, nil)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		do(v, fsproto.Getattr, fsproto.GetattrReq{Node: root})
	}()
	v.e.runAs(context.Background(), *v.s.own, func() error { panic("oh no") })
}
