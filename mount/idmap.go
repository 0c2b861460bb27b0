package mount

import (
	"context"
	"slices"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/idname"
	"github.com/rpycfs/rpycfs/rpc"
)

// Mapping says which user and group here is which on the server.
type Mapping uint8

// Mappings.
const (
	// MapDefault is MapRaw where the daemon acts with the caller's rights, and
	// MapSelf elsewhere.
	MapDefault Mapping = iota
	// MapSelf: the identity under which the daemon serves this session is
	// LocalUID and LocalGID here. Other numbers are the same on both sides.
	MapSelf
	// MapRaw: numbers are the same on both sides.
	MapRaw
	// MapName: who has the same name is the same. Who has no name on the other
	// side is shown as nobody, and nothing can be given to him.
	MapName
)

func (m Mapping) String() string { return [...]string{"default", "self", "raw", "name"}[m] }

// nobody is the user, and the group, that stands for those who have no number
// here: the kernel's overflow id.
const nobody = 65534

// IDs says how owners and permission bits of the daemon's files are shown.
type IDs struct {
	Map                Mapping
	LocalUID, LocalGID uint32 // for MapSelf

	// UID and GID, if set, are shown as the owner of everything.
	UID, GID *uint32
	// Umask, if set, replaces the permission bits that are shown with
	// 0777 &^ *Umask.
	Umask *uint32
}

// idMap is IDs with what the daemon has told. Arrays are indexed by
// idname.Kind. Its methods may be called concurrently.
type idMap struct {
	how           Mapping
	remote, local [2]uint32  // for MapSelf
	force         [2]*uint32 // shown for everybody
	umask         *uint32
	names         *nameMap // for MapName
}

// bind fills in what the daemon has told of the session.
func (ids IDs) bind(peer *rpc.Peer, told *fsproto.AttachRes) *idMap {
	m := &idMap{
		how:    ids.Map,
		remote: [2]uint32{told.UID, told.GID}, local: [2]uint32{ids.LocalUID, ids.LocalGID},
		force: [2]*uint32{ids.UID, ids.GID}, umask: ids.Umask,
	}
	if m.how == MapDefault {
		m.how = MapSelf
		if told.RunAs == fsproto.RunAsCaller {
			m.how = MapRaw
		}
	}
	if m.how == MapName {
		m.names = newNameMap(peer)
	}
	return m
}

// try fails if the daemon cannot map names. a is the root's.
func (m *idMap) try(ctx context.Context, a *fsproto.Attr) error {
	if m.names == nil {
		return nil
	}
	return m.names.fetch(ctx, [2][]uint32{{a.UID}, {a.GID}})
}

// own reports whether owners and bits are shown as they are on the server.
func (m *idMap) own() bool {
	return m.how == MapRaw && m.force[idname.User] == nil && m.force[idname.Group] == nil && m.umask == nil
}

// show returns what the kernel is told of an owner.
func (m *idMap) show(k idname.Kind, id uint32) uint32 {
	switch {
	case m.force[k] != nil:
		return *m.force[k]
	case m.how == MapSelf && id == m.remote[k]:
		return m.local[k]
	case m.how == MapName:
		return m.names.shown(k, id)
	}
	return id
}

func (m *idMap) mode(mode uint32) uint32 {
	if m.umask == nil {
		return mode
	}
	return mode&fsproto.ModeType | 0o777&^*m.umask
}

// learn prepares to show the owners in a reply.
func (m *idMap) learn(ctx context.Context, res any) {
	if m.names != nil {
		m.names.learn(ctx, res)
	}
}

// unshow translates an owner given by a local program to the daemon's. With a
// forced owner, setting the one that is shown already changes nothing. EINVAL
// for one that the daemon has no number for, as NFS has it.
func (m *idMap) unshow(ctx context.Context, k idname.Kind, id uint32) (there uint32, change bool, err error) {
	if m.force[k] != nil && id == *m.force[k] {
		return 0, false, nil
	}
	owners, err := m.send(ctx, k, id)
	if err != nil {
		return 0, false, err
	}
	if !owners[0].Known {
		return 0, false, syscall.EINVAL
	}
	return owners[0].ID, true, nil
}

// send returns the daemon's numbers of users or groups here.
func (m *idMap) send(ctx context.Context, k idname.Kind, ids ...uint32) ([]fsproto.Owner, error) {
	if m.how == MapName {
		return m.names.send(ctx, k, ids)
	}
	owners := make([]fsproto.Owner, len(ids))
	for i, id := range ids {
		if m.how == MapSelf && id == m.local[k] {
			id = m.remote[k]
		}
		owners[i] = fsproto.Owner{Known: true, ID: id}
	}
	return owners, nil
}

// sendCred turns a credential of this machine into the daemon's. A user or group
// that the daemon does not know is nobody there; such supplementary groups are
// left out.
func (m *idMap) sendCred(ctx context.Context, cred *fsproto.CredReq) error {
	if m.how == MapRaw {
		return nil
	}
	users, err := m.send(ctx, idname.User, cred.UID)
	if err != nil {
		return err
	}
	groups, err := m.send(ctx, idname.Group, slices.Insert(cred.Groups, 0, cred.GID)...)
	if err != nil {
		return err
	}
	cred.UID, cred.GID, cred.Groups = orNobody(users[0]), orNobody(groups[0]), nil
	for _, g := range groups[1:] {
		if g.Known {
			cred.Groups = append(cred.Groups, g.ID)
		}
	}
	return nil
}

func orNobody(o fsproto.Owner) uint32 {
	if o.Known {
		return o.ID
	}
	return nobody
}
