package export

import (
	"slices"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// TestNames asks for names and numbers of this machine.
func TestNames(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, nil)
	const nameless = 4_111_222_333
	names := do(v, fsproto.Names, fsproto.NamesReq{Users: []uint32{nameless, 0}, Groups: []uint32{0}})
	if !slices.Equal(names.Users, []string{"", "root"}) || !slices.Equal(names.Groups, []string{"root"}) {
		t.Errorf("names are %+v", names)
	}
	ids := do(v, fsproto.IDs, fsproto.IDsReq{Users: []string{"root"}, Groups: []string{"no such group", "root", ""}})
	none, root := fsproto.Owner{}, fsproto.Owner{Known: true}
	if !slices.Equal(ids.Users, []fsproto.Owner{root}) || !slices.Equal(ids.Groups, []fsproto.Owner{none, root, none}) {
		t.Errorf("numbers are %+v", ids)
	}
	if names := do(v, fsproto.Names, fsproto.NamesReq{}); len(names.Users)+len(names.Groups) != 0 {
		t.Errorf("names of nobody are %+v", names)
	}
	fail(v, fsproto.Names, fsproto.NamesReq{Users: make([]uint32, fsproto.MaxOwners+1)}, rpc.ErrBadRequest)
	fail(v, fsproto.IDs, fsproto.IDsReq{Users: []string{"a\x00b"}}, rpc.ErrBadRequest)
}

// TestNamesBeforeAttach: nothing is told to who has not attached.
func TestNamesBeforeAttach(t *testing.T) {
	v := newEnv(t, Config{}, Identity{}, nil)
	s := v.session(Identity{})
	defer s.Close()
	m := methods[slices.IndexFunc(methods, func(m method) bool { return m.op == &fsproto.Names.Info })]
	err := m.call(s, t.Context(), &rpc.Request{Op: m.op}, &fsproto.NamesReq{}, &fsproto.NamesRes{})
	if !isErrno(err, syscall.ESTALE) {
		t.Errorf("before attach: %v", err)
	}
}
