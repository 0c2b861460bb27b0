package mount

import (
	"context"
	"fmt"
	"slices"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/idname"
	"github.com/rpycfs/rpycfs/rpc"
)

// maxMapped bounds the numbers that are remembered, per kind and direction: many
// times the entries of one reply, so that no reply displaces its own.
const maxMapped = 1 << 16

// nameMap maps numbers by way of names: the daemon tells the names of its
// numbers, this machine's name service the numbers of those names here, and the
// other way round. Results are remembered with a bound and a time limit. Arrays
// are indexed by idname.Kind.
type nameMap struct {
	local  *idname.Service
	askFor struct { // the daemon's part
		names func(context.Context, *fsproto.NamesReq) (fsproto.NamesRes, error)
		ids   func(context.Context, *fsproto.IDsReq) (fsproto.IDsRes, error)
	}
	here  [2]*idname.Cache[uint32, uint32] // of the daemon's numbers
	there [2]*idname.Cache[uint32, uint32] // of our numbers
}

func newNameMap(peer *rpc.Peer) *nameMap {
	m := &nameMap{local: idname.New()}
	m.askFor.names = func(ctx context.Context, req *fsproto.NamesReq) (res fsproto.NamesRes, err error) {
		return res, rpc.Call(ctx, peer, fsproto.Names, req, &res)
	}
	m.askFor.ids = func(ctx context.Context, req *fsproto.IDsReq) (res fsproto.IDsRes, err error) {
		return res, rpc.Call(ctx, peer, fsproto.IDs, req, &res)
	}
	for k := range m.here {
		m.here[k] = idname.NewCache[uint32, uint32](maxMapped)
		m.there[k] = idname.NewCache[uint32, uint32](maxMapped)
	}
	return m
}

// shown returns our number for one of the daemon's, as far as learn has found it.
func (m *nameMap) shown(k idname.Kind, id uint32) uint32 {
	if here, known, _ := m.here[k].Get(id); known {
		return here
	}
	return nobody
}

// learn finds our numbers for the owners in a reply. Those for which that fails
// are shown as nobody this time, or as before.
func (m *nameMap) learn(ctx context.Context, res any) {
	var missing [2][]uint32
	eachAttr(res, func(a *fsproto.Attr) {
		for k, id := range [2]uint32{a.UID, a.GID} {
			if _, _, fresh := m.here[k].Get(id); !fresh && !slices.Contains(missing[k], id) {
				missing[k] = append(missing[k], id)
			}
		}
	})
	for len(missing[idname.User])+len(missing[idname.Group]) > 0 {
		var batch [2][]uint32
		for k := range missing {
			n := min(len(missing[k]), fsproto.MaxOwners)
			batch[k], missing[k] = missing[k][:n], missing[k][n:]
		}
		if m.fetch(ctx, batch) != nil {
			return
		}
	}
}

// eachAttr calls f for the attributes in a reply whose owner the kernel is told.
func eachAttr(res any, f func(*fsproto.Attr)) {
	switch res := res.(type) {
	case *fsproto.AttrRes:
		f(&res.Attr)
	case *fsproto.OpenRes:
		f(&res.Attr)
	case *fsproto.EntryRes:
		f(&res.Entry.Attr)
	case *fsproto.CreateRes:
		f(&res.Entry.Attr)
	case *fsproto.LookupRes:
		if res.Exists {
			f(&res.Entry.Attr)
		}
	case *fsproto.ReaddirRes:
		eachEntry(res.Entries, f)
	case *fsproto.TreeRes:
		for i := range res.Dirs {
			eachEntry(res.Dirs[i].Entries, f)
		}
	case *fsproto.ReadfileRes:
		for i := range res.Parts {
			if p := &res.Parts[i]; p.Read {
				f(&p.Attr)
			}
		}
	}
}

func eachEntry(entries []fsproto.Dirent, f func(*fsproto.Attr)) {
	for i := range entries {
		if e := &entries[i]; e.Known {
			f(&e.Entry.Attr)
		}
	}
}

// fetch finds our numbers for at most fsproto.MaxOwners of the daemon's of each
// kind.
func (m *nameMap) fetch(ctx context.Context, ids [2][]uint32) error {
	res, err := m.askFor.names(ctx, &fsproto.NamesReq{Users: ids[idname.User], Groups: ids[idname.Group]})
	if err != nil {
		return err
	}
	for k, names := range [2][]string{res.Users, res.Groups} {
		if len(names) != len(ids[k]) {
			return fmt.Errorf("%d names for %d owners: %w", len(names), len(ids[k]), rpc.ErrBadRequest)
		}
		for i, name := range names {
			here, known, err := m.local.ID(ctx, idname.Kind(k), name)
			if err != nil {
				return err
			}
			m.here[k].Put(ids[k][i], here, known)
		}
	}
	return nil
}

// send returns the daemon's numbers for ours, at most fsproto.MaxOwners.
func (m *nameMap) send(ctx context.Context, k idname.Kind, ids []uint32) ([]fsproto.Owner, error) {
	owners := make([]fsproto.Owner, len(ids))
	var names []string
	var at []int // where in owners those of names belong
	for i, id := range ids {
		there, known, fresh := m.there[k].Get(id)
		owners[i] = fsproto.Owner{Known: known, ID: there}
		if fresh {
			continue
		}
		name, err := m.local.Name(ctx, k, id)
		if err != nil {
			return nil, err
		}
		owners[i] = fsproto.Owner{}
		if name != "" {
			names, at = append(names, name), append(at, i)
		}
	}
	if len(names) == 0 {
		return owners, nil
	}
	found, err := m.ask(ctx, k, names)
	if err != nil {
		return nil, err
	}
	for i, o := range found {
		owners[at[i]] = o
		m.there[k].Put(ids[at[i]], o.ID, o.Known)
	}
	return owners, nil
}

// ask asks the daemon for the numbers of names.
func (m *nameMap) ask(ctx context.Context, k idname.Kind, names []string) ([]fsproto.Owner, error) {
	req := fsproto.IDsReq{Users: names}
	if k == idname.Group {
		req = fsproto.IDsReq{Groups: names}
	}
	res, err := m.askFor.ids(ctx, &req)
	if err != nil {
		return nil, err
	}
	found := res.Users
	if k == idname.Group {
		found = res.Groups
	}
	if len(found) != len(names) {
		return nil, fmt.Errorf("%d owners for %d names: %w", len(found), len(names), rpc.ErrBadRequest)
	}
	return found, nil
}
