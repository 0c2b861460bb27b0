package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sendWithin is how long a keeper may take to take a packet, which it does at once.
const sendWithin = 5 * time.Second

// Client gives descriptors to a keeper. A nil one keeps nothing. Its methods are safe
// for concurrent use.
type Client struct {
	path    string
	command []string
	log     *slog.Logger
	ended   time.Time // when the process before had ended, at the latest; zero: nobody knows

	mu      sync.Mutex
	conn    *net.UnixConn // nil: there is no keeper
	held    map[uint64]int
	pid     int // of the keeper that was started last
	closed  bool
	reading sync.WaitGroup

	goingMu sync.Mutex // taken after mu
	going   map[uint64][]func()
}

// Connect finds the keeper that serves a socket, or prepares to start one with the first
// descriptor: by a command, which finds the listening socket as descriptor 3 and calls
// Run. It returns what the keeper that was there holds; the caller owns those. Only one
// process at a time may do this for a socket.
func Connect(path string, command []string, log *slog.Logger) (*Client, map[uint64]int, error) {
	c := &Client{path: path, command: command, log: log, held: make(map[uint64]int), going: make(map[uint64][]func())}
	conn, err := dial(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return c, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	found, err := c.takeAll(conn)
	if err != nil {
		log.Warn("the keeper of open files has ended", "err", err)
		conn.Close()
		return c, nil, nil
	}
	for key, fd := range found {
		c.held[key] = fd
	}
	c.use(conn)
	return c, found, nil
}

// Ended returns when the process before had ended at the latest, zero if nobody saw it.
func (c *Client) Ended() time.Time {
	if c == nil {
		return time.Time{}
	}
	return c.ended
}

func dial(path string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	if err := checkPeer(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return conn, nil
}

func (c *Client) takeAll(conn *net.UnixConn) (map[uint64]int, error) {
	if err := send(conn, opAll, 0, -1); err != nil {
		return nil, err
	}
	found := make(map[uint64]int)
	for {
		op, key, fd, err := receive(conn)
		if err != nil {
			for _, fd := range found {
				unix.Close(fd)
			}
			return nil, err
		}
		if op == opEnd {
			if key != 0 {
				c.ended = time.Unix(0, int64(key))
			}
			return found, nil
		}
		found[key] = fd
	}
}

// use makes conn the connection, and watches for the keeper's end. mu is held, or nobody
// else knows c yet.
func (c *Client) use(conn *net.UnixConn) {
	c.conn = conn
	c.reading.Go(func() {
		err := c.read(conn)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed || c.conn != conn {
			return
		}
		c.log.Warn("the keeper of open files has ended; another one is started", "err", err)
		c.drop()
		c.start()
	})
}

// read hears what the keeper has let go, until that is gone.
func (c *Client) read(conn *net.UnixConn) error {
	for {
		op, key, _, err := receive(conn)
		if err != nil {
			return err
		}
		if op == opDrop {
			c.gone(key)
		}
	}
}

// gone does what was to follow a descriptor's end at the keeper.
func (c *Client) gone(key uint64) {
	c.goingMu.Lock()
	list := c.going[key]
	var then func()
	switch len(list) {
	case 0:
	case 1:
		then = list[0]
		delete(c.going, key)
	default:
		then = list[0]
		c.going[key] = list[1:]
	}
	c.goingMu.Unlock()
	if then != nil {
		then()
	}
}

// drop gives the connection up. mu is held.
func (c *Client) drop() {
	if c.conn == nil {
		return
	}
	c.conn.Close()
	c.conn = nil
	c.goingMu.Lock()
	going := c.going
	c.going = make(map[uint64][]func())
	c.goingMu.Unlock()
	for _, list := range going {
		for _, then := range list {
			then()
		}
	}
}

// start starts a keeper and gives it all that it should hold. mu is held.
func (c *Client) start() {
	if len(c.held) == 0 {
		return
	}
	if err := c.tryStart(); err != nil {
		c.log.Error("no keeper: open files that lose their names will not survive a restart of the daemon", "err", err)
		c.drop()
	}
}

func (c *Client) tryStart() error {
	if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: c.path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(c.path, 0o600); err != nil {
		return err
	}
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command(c.command[0], c.command[1:]...)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this process and its terminal
	if err := cmd.Start(); err != nil {
		return err
	}
	c.pid = cmd.Process.Pid
	go cmd.Wait() // only so that no zombie is left
	conn, err := dial(c.path)
	if err != nil {
		return err
	}
	c.use(conn)
	for key, fd := range c.held {
		if err := send(conn, opKeep, key, fd); err != nil {
			return err
		}
	}
	return nil
}

// Keep has a descriptor kept under a key. It stays open here until Drop.
func (c *Client) Keep(key uint64, fd int) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[key] = fd
	switch {
	case c.closed:
	case c.conn == nil:
		c.start()
	default:
		c.tell(opKeep, key, fd)
	}
}

// Drop has a descriptor let go, and then calls a function, which closes the caller's own:
// so it is this process, not the keeper, that closes the file in the end. It does not
// wait for that.
func (c *Client) Drop(key uint64, then func()) {
	if c == nil {
		then()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, held := c.held[key]
	delete(c.held, key)
	if !held || c.conn == nil || c.closed {
		then()
		return
	}
	c.goingMu.Lock()
	c.going[key] = append(c.going[key], then)
	c.goingMu.Unlock()
	c.tell(opDrop, key, -1)
}

// tell sends a packet; where that fails the keeper is gone. mu is held.
func (c *Client) tell(op byte, key uint64, fd int) {
	err := c.conn.SetWriteDeadline(time.Now().Add(sendWithin))
	if err == nil {
		err = send(c.conn, op, key, fd)
	}
	if err != nil {
		c.log.Warn("the keeper of open files does not answer; another one is started", "err", err)
		c.drop()
		c.start()
	}
}

// Close leaves the keeper alone with what it holds; it ends at once if that is nothing.
func (c *Client) Close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.closed = true
	c.drop()
	c.mu.Unlock()
	c.reading.Wait()
}
