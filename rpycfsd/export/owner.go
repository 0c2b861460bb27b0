package export

import (
	"context"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/idname"
)

// names tells the names of users and groups on this machine. Whoever has logged
// in may ask: it is what ls -l shows to anybody who logs in here otherwise.
func (s *Session) names(c call, req *fsproto.NamesReq, res *fsproto.NamesRes) (err error) {
	ctx := c.Context()
	if res.Users, err = s.e.namesOf(ctx, idname.User, req.Users); err == nil {
		res.Groups, err = s.e.namesOf(ctx, idname.Group, req.Groups)
	}
	return err
}

func (e *Export) namesOf(ctx context.Context, k idname.Kind, ids []uint32) ([]string, error) {
	names := make([]string, len(ids))
	for i, id := range ids {
		var err error
		if names[i], err = e.owners.Name(ctx, k, id); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// ids tells the numbers of users and groups on this machine.
func (s *Session) ids(c call, req *fsproto.IDsReq, res *fsproto.IDsRes) (err error) {
	ctx := c.Context()
	if res.Users, err = s.e.idsOf(ctx, idname.User, req.Users); err == nil {
		res.Groups, err = s.e.idsOf(ctx, idname.Group, req.Groups)
	}
	return err
}

func (e *Export) idsOf(ctx context.Context, k idname.Kind, names []string) ([]fsproto.Owner, error) {
	owners := make([]fsproto.Owner, len(names))
	for i, name := range names {
		id, known, err := e.owners.ID(ctx, k, name)
		if err != nil {
			return nil, err
		}
		owners[i] = fsproto.Owner{Known: known, ID: id}
	}
	return owners, nil
}
