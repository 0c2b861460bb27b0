package export

import (
	"math"
	"syscall"

	"github.com/rpycfs/rpycfs/fsproto"
	"golang.org/x/sys/unix"
)

// maxCopy bounds one copy_file_range, in bytes: it cannot be interrupted.
const maxCopy = 128 << 20

// offsets refuses with EINVAL what the kernel's signed offsets do not hold.
func offsets(offs ...uint64) error {
	for _, off := range offs {
		if off > math.MaxInt64 {
			return syscall.EINVAL
		}
	}
	return nil
}

func (s *Session) read(r call, req *fsproto.ReadReq, res *fsproto.AttrRes) error {
	h, err := s.handle(req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	if err := offsets(req.Offset); err != nil {
		return err
	}
	if req.Size > fsproto.MaxData {
		return syscall.EINVAL
	}
	buf, err := r.Reply(int(req.Size))
	if err != nil {
		return err
	}
	n, err := h.f.ReadAt(buf, int64(req.Offset))
	if err != nil {
		return err
	}
	r.SetReply(n)
	return h.attr(&res.Attr)
}

// write writes in one system call and tells truthfully how far it came. Writes
// that append find out where they went under h.pos.
func (s *Session) write(c call, req *fsproto.WriteReq, res *fsproto.WriteRes) error {
	h, err := s.handleOf(c, req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	if err := offsets(req.Offset); err != nil {
		return err
	}
	if err := h.mayWrite(syscall.EBADF); err != nil {
		return err
	}
	if err := s.e.dropSetID(h.f, c.killsPriv(req.Flags&fsproto.WriteKillPriv != 0)); err != nil {
		return err
	}
	flags := 0
	if req.Flags&fsproto.WriteSync != 0 {
		flags |= unix.RWF_SYNC
	}
	if req.Flags&fsproto.WriteDataSync != 0 {
		flags |= unix.RWF_DSYNC
	}
	n, off := 0, int64(req.Offset)
	if req.Flags&fsproto.WriteAppend != 0 {
		h.pos.Lock()
		n, off, err = h.f.Append(c.Data, flags)
		h.pos.Unlock()
	} else {
		n, err = h.f.WriteAt(c.Data, off, flags)
	}
	if err != nil {
		return err
	}
	res.Count, res.Offset = uint32(n), uint64(off)
	return h.attr(&res.Attr)
}

func (s *Session) fsync(c call, req *fsproto.FsyncReq, res *fsproto.AttrRes) error {
	h, err := s.handleOf(c, req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	if err := h.f.Sync(req.DataOnly); err != nil {
		return err
	}
	return h.attr(&res.Attr)
}

// release closes a file when the calls that use it have ended.
func (s *Session) release(c call, req *fsproto.ReleaseReq, _ *fsproto.Empty) error {
	s.mu.Lock()
	h := s.handles[req.Handle]
	if h == nil {
		s.mu.Unlock()
		if c.Again {
			return nil
		}
		return syscall.EBADF
	}
	delete(s.handles, req.Handle)
	last := s.dismiss(h)
	s.mu.Unlock()
	if last {
		s.finish(h)
	}
	return nil
}

func (s *Session) releases(_ call, req *fsproto.ReleasesReq, _ *fsproto.Empty) error {
	var closing []*handle
	s.mu.Lock()
	for _, num := range req.Handles {
		if h := s.handles[num]; h != nil {
			delete(s.handles, num)
			if s.dismiss(h) {
				closing = append(closing, h)
			}
		}
	}
	s.mu.Unlock()
	for _, h := range closing {
		s.finish(h)
	}
	return nil
}

func (s *Session) fallocate(c call, req *fsproto.FallocateReq, res *fsproto.AttrRes) error {
	h, err := s.handleOf(c, req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	if err := offsets(req.Offset, req.Length); err != nil {
		return err
	}
	if err := h.mayWrite(syscall.EBADF); err != nil {
		return err
	}
	if err := s.e.dropSetID(h.f, false); err != nil {
		return err
	}
	if err := h.f.Fallocate(req.Mode, int64(req.Offset), int64(req.Length)); err != nil {
		return err
	}
	return h.attr(&res.Attr)
}

// lseek finds data or holes. The kernel moves the file's position, which
// nothing but an append uses.
func (s *Session) lseek(_ call, req *fsproto.LseekReq, res *fsproto.LseekRes) error {
	h, err := s.handle(req.Handle)
	if err != nil {
		return err
	}
	defer s.done(h)
	if req.Offset > math.MaxInt64 {
		return syscall.ENXIO
	}
	if h.r.n.isDir() {
		return syscall.EINVAL
	}
	h.pos.Lock()
	off, err := h.f.Seek(int64(req.Offset), int(req.Whence))
	h.pos.Unlock()
	if err != nil {
		return err
	}
	res.Offset = uint64(off)
	return h.attr(&res.Attr)
}

// copyFileRange copies at most maxCopy bytes; the caller asks again for the rest.
func (s *Session) copyFileRange(c call, req *fsproto.CopyReq, res *fsproto.CopyRes) error {
	from, err := s.handle(req.From)
	if err != nil {
		return err
	}
	defer s.done(from)
	to, err := s.handleOf(c, req.To)
	if err != nil {
		return err
	}
	defer s.done(to)
	if err := offsets(req.FromOffset, req.ToOffset); err != nil {
		return err
	}
	if err := to.mayWrite(syscall.EBADF); err != nil {
		return err
	}
	if err := s.e.dropSetID(to.f, false); err != nil {
		return err
	}
	n, err := from.f.CopyTo(int64(req.FromOffset), to.f, int64(req.ToOffset), int(min(req.Length, maxCopy)))
	if err != nil {
		return err
	}
	res.Count = uint64(n)
	return to.attr(&res.Attr)
}
