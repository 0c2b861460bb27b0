package chat

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/client"
)

// Errors of this package; those of the service are chatproto's.
var (
	// ErrQueued means that a message was put into the outbox and goes out when
	// the connection is back.
	ErrQueued = errors.New("not connected; the message waits in the outbox")
	// ErrNoState means that sealed rooms need Config.State.
	ErrNoState = errors.New("sealed rooms need a state directory")
	// ErrClosed means that the client has been closed.
	ErrClosed = errors.New("the chat client is closed")
)

// TypingFor is how long a Typing event holds.
const TypingFor = chatproto.TypingFor

const (
	queued  = 64                     // events that wait for the program
	maxSide = 1024                   // events that wait besides: see Client.side
	minLag  = 2 * time.Second        // how long a connection is lost before Say returns ErrQueued
	adopt   = 30 * time.Second       // how often the outbox looks for what dead programs left
	maxLog  = 2 * chatproto.MaxUsers // events of snapshots that wait
)

// Start tells where the events of a room begin when the client attaches for the
// first time.
type Start uint8

const (
	// FromNow begins with what is said from now on.
	FromNow Start = iota
	// FromUnread begins with the first entry that the user has not read, but at
	// most chatproto.MaxUnread entries back.
	FromUnread
)

// Config describes a chat client. It is not changed once Dial has it.
type Config struct {
	// Address is host:port, or unix:PATH.
	Address string
	// Auth logs in.
	Auth *auth.Client
	// State is a directory for the outbox, the keys and the history of sealed
	// rooms, of all servers and users; it is made if need be. "" keeps nothing:
	// the outbox is in memory and sealed rooms cannot be used.
	State string
	// Device is the name of this device that others see; "" is the host's name.
	Device string
	// Start is where the events of rooms begin.
	Start Start
	// Since names rooms (as Client.Room does) whose events begin after a
	// sequence number.
	Since map[string]uint64
	// Offline makes Dial succeed although the server cannot be reached, or does
	// not answer before ctx's deadline: what is said goes into the outbox.
	Offline bool
	// NoEvents is for programs that never call Events.
	NoEvents bool
	// Log receives what goes wrong; nil discards.
	Log *slog.Logger
}

// Status tells how the client stands.
type Status struct {
	Connected bool
	Since     time.Time // of Connected being what it is
	LastError error     // why there is no connection
	NextTry   time.Time // while not connected
	Outbox    int       // messages that wait
}

// Client is a chat client. Its methods are safe for concurrent use. While the
// connection is lost they wait for the next one until their context ends; the
// exceptions are said.
type Client struct {
	cfg    Config
	log    *slog.Logger
	user   string
	sealed *sealed // nil without Config.State
	outbox *outbox

	ctx    context.Context // ends with Close, or when the client gives up
	cancel context.CancelFunc
	done   chan struct{} // run has returned
	queue  chan Event
	work   sync.WaitGroup // goroutines besides run

	logged []Event // of snapshots, to be handed out before anything else; the pump's

	mu        sync.Mutex
	link      *link         // nil while there is no session
	state     client.State  // of the session
	upSince   time.Time     // when Status.Connected changed
	up        bool          // Status.Connected
	changed   chan struct{} // closed when link, state or err change
	err       error         // why the client gave up
	attached  bool          // there has been a snapshot; the pump's
	rooms     map[chatproto.RoomID]*room
	users     map[string]chatproto.Presence
	away      bool
	awayText  string
	side      []Event // from other goroutines than the pump
	sideReady chan struct{}
}

// Dial logs in and attaches. ctx bounds that, not the client. The error is of
// the network (net.Error), one of package auth's, or of Config.State.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	c, err := newClient(cfg)
	if err != nil {
		return nil, err
	}
	l, err := c.connect(ctx)
	if err != nil && (!cfg.Offline || hopeless(err) || errors.Is(context.Cause(ctx), context.Canceled)) {
		c.cancel()
		c.work.Wait()
		return nil, errors.Join(err, c.sealed.close())
	}
	if err != nil {
		c.sessionChanged(client.State{Since: time.Now(), LastError: err})
		c.recallRooms()
	} else {
		c.setLink(l) // whoever has the client has the connection
		c.rememberRooms()
	}
	go c.run(l)
	c.work.Go(c.adoptLoop)
	return c, nil
}

// newClient makes a client that is not connected, and opens its state.
func newClient(cfg Config) (*Client, error) {
	c := &Client{
		cfg: cfg, log: cfg.Log, user: cfg.Auth.User,
		done: make(chan struct{}), queue: make(chan Event, queued),
		changed: make(chan struct{}), sideReady: make(chan struct{}, 1),
		rooms: make(map[chatproto.RoomID]*room), users: make(map[string]chatproto.Presence),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.cfg.Device == "" {
		c.cfg.Device, _ = os.Hostname()
	}
	var err error
	if c.sealed, err = openSealed(c); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.outbox = newOutbox(c)
	c.outbox.adopt() // before anything new is said
	return c, nil
}

// Close logs out and ends the client. With Config.State, what waits in the
// outbox stays there for the next client; otherwise it is lost.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.err == nil {
		c.err = ErrClosed
	}
	c.mu.Unlock()
	c.cancel()
	<-c.done
	c.outbox.barrier() // whoever has not seen the error has started its work
	c.work.Wait()
	c.rememberRooms()
	return c.sealed.close()
}

// fail gives up: there will be no other session.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.state = client.State{LastError: err}
	c.tell()
	c.mu.Unlock()
	c.cancel()
}

// Err returns why the client has given up (the password is refused, the
// server's key has changed, Close), and nil while it goes on.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// User is who the client has logged in as.
func (c *Client) User() string { return c.user }

// Status returns how the client stands.
func (c *Client) Status() Status {
	waiting := c.outbox.len()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statusLocked(waiting)
}

func (c *Client) statusLocked(waiting int) Status {
	s := Status{Connected: c.up, Since: c.upSince, Outbox: waiting}
	if !c.up {
		s.LastError, s.NextTry = c.state.LastError, c.state.NextTry
	}
	return s
}

// sessionChanged is told how the session stands.
func (c *Client) sessionChanged(s client.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = s
	c.tell()
}

func (c *Client) setLink(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	c.tell()
}

// tell wakes who waits for a change of the connection, and makes the event. c.mu
// is held.
func (c *Client) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
	up := c.link != nil && c.state.Connected && c.err == nil
	first := c.upSince.IsZero()
	if up == c.up && (up || !first && c.state.NextTry.IsZero() && c.err == nil) {
		return
	}
	if up != c.up || first {
		c.up, c.upSince = up, time.Now()
	}
	if !first || c.cfg.Offline {
		c.sayLocked(&Connection{c.statusLocked(0)})
	}
}

// say hands out an event besides those of the feed.
func (c *Client) say(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sayLocked(e)
}

func (c *Client) sayLocked(e Event) {
	if c.cfg.NoEvents {
		return
	}
	n := len(c.side)
	if _, ok := e.(*Connection); ok && n > 0 {
		if _, ok := c.side[n-1].(*Connection); ok {
			c.side = c.side[:n-1]
		}
	}
	if n == maxSide {
		c.log.Warn("an event was not taken in time", "event", fmt.Sprintf("%T", c.side[0]))
		c.side = c.side[1:]
	}
	c.side = append(c.side, e)
	select {
	case c.sideReady <- struct{}{}:
	default:
	}
}

// takeSide returns the next event of side, nil if there is none.
func (c *Client) takeSide() Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.side) == 0 {
		return nil
	}
	e := c.side[0]
	c.side = c.side[1:]
	return e
}

// Events returns the events, in order, until ctx ends, the client is closed or
// gives up (Err). The entries of a room come without a gap and none twice, over
// lost connections and a restarted daemon. There may be one consumer at a time;
// a program that is slow to take events holds up nobody else, and misses none.
// It may stop, and call Events again later.
func (c *Client) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for {
			for e := c.takeSide(); e != nil; e = c.takeSide() {
				if s, ok := e.(*Connection); ok {
					s.Status.Outbox = c.outbox.len()
				}
				if !yield(e) {
					return
				}
			}
			select {
			case e := <-c.queue:
				if !yield(e) {
					return
				}
			case <-c.sideReady:
			case <-ctx.Done():
				return
			case <-c.done:
				c.drain(yield)
				return
			}
		}
	}
}

// drain hands out what is left of a client that has ended.
func (c *Client) drain(yield func(Event) bool) {
	for {
		select {
		case e := <-c.queue:
			if !yield(e) {
				return
			}
			continue
		default:
		}
		e := c.takeSide()
		if e == nil || !yield(e) {
			return
		}
	}
}

// session waits for a session.
func (c *Client) session(ctx context.Context) (*link, error) {
	for {
		c.mu.Lock()
		l, changed, err := c.link, c.changed, c.err
		c.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case l != nil && !l.over():
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.ctx.Done():
			if err := c.Err(); err != nil {
				return nil, err
			}
			return nil, ErrClosed
		}
	}
}
