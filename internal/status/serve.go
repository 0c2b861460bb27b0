package status

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/rpycfs/rpycfs/internal/mounts"
)

const (
	// writeLimit is how long one answer may take. The socket's buffer has room
	// for all of it, so who does not read delays nobody.
	writeLimit = time.Second
	// acceptPause is how long a failure to accept, for want of descriptors, is
	// waited out.
	acceptPause = 100 * time.Millisecond
)

// Server answers for a mount.
type Server struct {
	lis  *mounts.Listener
	quit chan struct{}
	done chan struct{}
}

// Serve answers on the socket of the mount with device dev with what tell returns,
// one connection after the other, until Close. tell must not block.
func Serve(dev string, tell func() *Document, log *slog.Logger) (*Server, error) {
	lis, err := mounts.Listen(dev)
	if err != nil {
		return nil, err
	}
	s := &Server{lis: lis, quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.run(tell, log)
	}()
	return s, nil
}

func (s *Server) run(tell func() *Document, log *slog.Logger) {
	for {
		c, err := s.lis.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err == nil:
			if err := answer(c, tell()); err != nil {
				log.Debug("status", "err", err)
			}
		default:
			log.Warn("status", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-s.quit:
			}
		}
	}
}

// answer writes the document and closes the connection.
func answer(c net.Conn, d *Document) error {
	defer c.Close()
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	_, err = c.Write(append(text, '\n'))
	return err
}

// Close takes the socket away and returns when nothing is answered any more.
func (s *Server) Close() error {
	close(s.quit)
	err := s.lis.Close()
	<-s.done
	return err
}
