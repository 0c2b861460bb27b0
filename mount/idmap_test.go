package mount

import (
	"context"
	"errors"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/idname"
	"github.com/rpycfs/rpycfs/rpc"
)

var told = &fsproto.AttachRes{UID: 500, GID: 501}

func TestIDs(t *testing.T) {
	ctx := t.Context()
	uid, umask := uint32(42), uint32(0o27)
	self := IDs{LocalUID: 1000, LocalGID: 1001}.bind(nil, told)
	if self.show(idname.User, 500) != 1000 || self.show(idname.Group, 501) != 1001 || self.show(idname.User, 7) != 7 {
		t.Error("self does not show the daemon's identity as the user's")
	}
	if id, ok, err := self.unshow(ctx, idname.User, 1000); id != 500 || !ok || err != nil {
		t.Errorf("chown to oneself sets %d, %t, %v", id, ok, err)
	}
	if id, ok, err := self.unshow(ctx, idname.Group, 7); id != 7 || !ok || err != nil {
		t.Errorf("chgrp to another sets %d, %t, %v", id, ok, err)
	}
	cred := fsproto.CredReq{UID: 1000, GID: 7, Groups: []uint32{1001, 9}}
	if err := self.sendCred(ctx, &cred); err != nil || cred.UID != 500 || cred.GID != 7 || !slices.Equal(cred.Groups, []uint32{501, 9}) {
		t.Errorf("the credential became %+v, %v", cred, err)
	}
	forced := IDs{Map: MapRaw, UID: &uid, Umask: &umask}.bind(nil, told)
	if forced.show(idname.User, 500) != 42 || forced.show(idname.Group, 501) != 501 || forced.mode(fsproto.ModeDir|0o4777) != fsproto.ModeDir|0o750 {
		t.Error("uid= and umask= are not shown")
	}
	if _, ok, err := forced.unshow(ctx, idname.User, 42); ok || err != nil {
		t.Error("chown to the forced owner changes something")
	}
}

// TestOwnIDs asks where the ids are the server's own, so that the kernel may
// check permissions by them.
func TestOwnIDs(t *testing.T) {
	n := uint32(1)
	for _, c := range []struct {
		ids   IDs
		runAs uint8
		own   bool
	}{
		{IDs{}, fsproto.RunAsDaemon, false},
		{IDs{}, fsproto.RunAsAccount, false},
		{IDs{}, fsproto.RunAsCaller, true},
		{IDs{Map: MapSelf}, fsproto.RunAsCaller, false},
		{IDs{Map: MapName}, fsproto.RunAsCaller, false},
		{IDs{UID: &n}, fsproto.RunAsCaller, false},
		{IDs{GID: &n}, fsproto.RunAsCaller, false},
		{IDs{Umask: &n}, fsproto.RunAsCaller, false},
		{IDs{Map: MapRaw}, fsproto.RunAsCaller, true},
	} {
		if own := c.ids.bind(nil, &fsproto.AttachRes{RunAs: c.runAs}).own(); own != c.own {
			t.Errorf("%+v, run as %d: %t", c.ids, c.runAs, own)
		}
	}
}

// otherMachine is a daemon's name service: users have the numbers of this
// machine and 10000, groups and 20000.
type otherMachine struct {
	names, ids int // calls
	err        error
}

const usersAt, groupsAt = 10000, 20000

func (o *otherMachine) nameMap() *nameMap {
	m := newNameMap(nil)
	m.askFor.names = func(_ context.Context, req *fsproto.NamesReq) (res fsproto.NamesRes, err error) {
		o.names++
		for _, id := range req.Users {
			u, _ := user.LookupId(strconv.Itoa(int(id) - usersAt))
			if u == nil {
				u = &user.User{Username: "nobody here"}
			}
			res.Users = append(res.Users, u.Username)
		}
		for _, id := range req.Groups {
			g, _ := user.LookupGroupId(strconv.Itoa(int(id) - groupsAt))
			if g == nil {
				g = &user.Group{}
			}
			res.Groups = append(res.Groups, g.Name)
		}
		return res, o.err
	}
	m.askFor.ids = func(_ context.Context, req *fsproto.IDsReq) (res fsproto.IDsRes, err error) {
		o.ids++
		for _, name := range req.Users {
			u, err := user.Lookup(name)
			owner := fsproto.Owner{Known: err == nil && name != "games"}
			if owner.Known {
				n, _ := strconv.Atoi(u.Uid)
				owner.ID = uint32(n + usersAt)
			}
			res.Users = append(res.Users, owner)
		}
		for _, name := range req.Groups {
			g, err := user.LookupGroup(name)
			owner := fsproto.Owner{Known: err == nil && name != "games"}
			if owner.Known {
				n, _ := strconv.Atoi(g.Gid)
				owner.ID = uint32(n + groupsAt)
			}
			res.Groups = append(res.Groups, owner)
		}
		return res, o.err
	}
	return m
}

func idOf(t *testing.T, name string) uint32 {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func groupOf(t *testing.T, name string) uint32 {
	t.Helper()
	g, err := user.LookupGroup(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(g.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func attrRes(uid, gid uint32) *fsproto.AttrRes {
	return &fsproto.AttrRes{Attr: fsproto.Attr{UID: uid, GID: gid}}
}

func TestNamesShown(t *testing.T) {
	var o otherMachine
	m := &idMap{how: MapName, names: o.nameMap()}
	daemon := idOf(t, "daemon")
	for range 2 {
		m.learn(t.Context(), attrRes(usersAt+daemon, groupsAt))
		m.learn(t.Context(), attrRes(7, 8))
	}
	for _, c := range []struct {
		kind     idname.Kind
		id, want uint32
	}{
		{idname.User, usersAt + daemon, daemon}, {idname.Group, groupsAt, 0},
		{idname.User, 7, nobody}, {idname.Group, 8, nobody}, {idname.User, daemon, nobody},
	} {
		if got := m.show(c.kind, c.id); got != c.want {
			t.Errorf("kind %d, %d is shown as %d, want %d", c.kind, c.id, got, c.want)
		}
	}
	if o.names != 2 {
		t.Errorf("the daemon was asked %d times", o.names)
	}
}

// TestNamesOfPage learns a listing with more owners than one message asks for.
func TestNamesOfPage(t *testing.T) {
	var o otherMachine
	m := o.nameMap()
	const owners = 3*fsproto.MaxOwners + 1
	res := &fsproto.ReaddirRes{Entries: make([]fsproto.Dirent, 2*owners+1)}
	for i := range 2 * owners {
		res.Entries[i] = fsproto.Dirent{Known: true, Entry: fsproto.Entry{Attr: fsproto.Attr{UID: usersAt + uint32(i%owners)}}}
	}
	res.Entries[2*owners].Entry.Attr.UID = 1 // not told the kernel
	m.learn(t.Context(), res)
	if o.names != 4 {
		t.Errorf("the daemon was asked %d times", o.names)
	}
	if m.shown(idname.User, usersAt) != 0 {
		t.Error("root is not root")
	}
	if _, _, fresh := m.here[idname.User].Get(1); fresh {
		t.Error("asked for an entry without attributes")
	}
}

func TestNamesSent(t *testing.T) {
	var o otherMachine
	m := &idMap{how: MapName, names: o.nameMap()}
	daemon, games := idOf(t, "daemon"), groupOf(t, "games")
	const nameless = 4_000_000
	cred := fsproto.CredReq{UID: daemon, GID: games, Groups: []uint32{daemon, nameless, 0}}
	if err := m.sendCred(t.Context(), &cred); err != nil {
		t.Fatal(err)
	}
	if cred.UID != usersAt+daemon || cred.GID != nobody || !slices.Equal(cred.Groups, []uint32{groupsAt + daemon, groupsAt}) {
		t.Errorf("the credential became %+v", cred)
	}
	calls := o.ids
	for id, want := range map[uint32]error{daemon: nil, games: syscall.EINVAL, nameless: syscall.EINVAL} {
		there, change, err := m.unshow(t.Context(), idname.Group, id)
		if !errors.Is(err, want) || change != (want == nil) || want == nil && there != groupsAt+id {
			t.Errorf("group %d: %d, %t, %v", id, there, change, err)
		}
	}
	if o.ids != calls {
		t.Error("the daemon was asked again")
	}
}

// TestNamesFail loses the daemon, and meets one that does not count.
func TestNamesFail(t *testing.T) {
	o := otherMachine{err: rpc.ErrGone}
	m := &idMap{how: MapName, names: o.nameMap()}
	m.learn(t.Context(), attrRes(usersAt, groupsAt))
	if got := m.show(idname.User, usersAt); got != nobody {
		t.Errorf("an owner that could not be asked for is shown as %d", got)
	}
	cred := fsproto.CredReq{}
	if err := m.sendCred(t.Context(), &cred); !errors.Is(err, rpc.ErrGone) {
		t.Errorf("a credential that could not be translated: %v", err)
	}
	if err := m.try(t.Context(), &fsproto.Attr{}); !errors.Is(err, rpc.ErrGone) {
		t.Errorf("attach: %v", err)
	}
	m.names.askFor.names = func(context.Context, *fsproto.NamesReq) (fsproto.NamesRes, error) {
		return fsproto.NamesRes{Users: []string{"root", "root"}}, nil
	}
	m.names.askFor.ids = func(context.Context, *fsproto.IDsReq) (fsproto.IDsRes, error) {
		return fsproto.IDsRes{}, nil
	}
	if err := m.try(t.Context(), &fsproto.Attr{}); !errors.Is(err, rpc.ErrBadRequest) {
		t.Errorf("two names for one user: %v", err)
	}
	if _, _, err := m.unshow(t.Context(), idname.User, 0); !errors.Is(err, rpc.ErrBadRequest) {
		t.Errorf("no answer for one name: %v", err)
	}
}
