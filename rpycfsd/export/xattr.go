package export

import (
	"strings"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
)

// xattrKind says what is done with an extended attribute by its name.
type xattrKind uint8

const (
	xattrServed  xattrKind = iota // the kernel decides
	xattrHidden                   // trusted. and security., by the daemon's rights: neither shown nor set
	xattrUnknown                  // no name space that is served
	xattrBad                      // no name at all
)

// kindOf sorts names of extended attributes. trusted. and security. would be
// the daemon's privilege, not the user's; with the rights of others the kernel
// decides about them too.
func (e *Export) kindOf(name string) xattrKind {
	switch {
	case name == "" || strings.IndexByte(name, 0) >= 0:
		return xattrBad
	case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "security."):
		if e.pool != nil {
			return xattrServed
		}
		return xattrHidden
	case strings.HasPrefix(name, "user."),
		name == "system.posix_acl_access", name == "system.posix_acl_default":
		return xattrServed
	}
	return xattrUnknown
}

// refuseXattr is the error for names that are not served; hidden is what it is
// for hidden ones.
func (e *Export) refuseXattr(name string, hidden syscall.Errno) error {
	switch e.kindOf(name) {
	case xattrHidden:
		return hidden
	case xattrUnknown:
		return syscall.EOPNOTSUPP
	case xattrBad:
		if name == "" {
			return syscall.ERANGE
		}
		return syscall.EINVAL
	}
	return nil
}

// firstXattr is what is tried before a buffer of the largest size, in bytes.
const firstXattr = 512

// readXattr calls read with buffers that grow until the value fits. What exceeds
// the protocol's limit gives E2BIG.
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	for _, size := range []int{firstXattr, fsproto.MaxXattr} {
		buf := make([]byte, size)
		n, err := read(buf)
		if isErrno(err, syscall.ERANGE) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
	return nil, syscall.E2BIG
}

func (s *Session) getxattr(_ call, req *fsproto.GetxattrReq, res *fsproto.XattrRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	if err := s.e.refuseXattr(req.Name, syscall.ENODATA); err != nil {
		return err
	}
	res.Value, err = readXattr(func(b []byte) (int, error) { return o.p.Getxattr(req.Name, b) })
	if err != nil {
		return err
	}
	return o.attr(&res.Attr)
}

func (s *Session) setxattr(_ call, req *fsproto.SetxattrReq, res *fsproto.AttrRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	if err := s.e.refuseXattr(req.Name, syscall.EPERM); err != nil {
		return err
	}
	if err := o.p.Setxattr(req.Name, req.Value, int(req.Flags)); err != nil {
		return err
	}
	return o.attr(&res.Attr)
}

func (s *Session) removexattr(_ call, req *fsproto.RemovexattrReq, res *fsproto.AttrRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	if err := s.e.refuseXattr(req.Name, syscall.EPERM); err != nil {
		return err
	}
	if err := o.p.Removexattr(req.Name); err != nil {
		return err
	}
	return o.attr(&res.Attr)
}

// listxattr lists the names that getxattr would answer.
func (s *Session) listxattr(_ call, req *fsproto.NodeReq, res *fsproto.ListxattrRes) error {
	o, err := s.node(req.Node)
	if err != nil {
		return err
	}
	defer o.done()
	list, err := readXattr(o.p.Listxattr)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(string(list), "\x00") {
		if s.e.kindOf(name) == xattrServed {
			res.Names = append(res.Names, name)
		}
	}
	return o.attr(&res.Attr)
}
