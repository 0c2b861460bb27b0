package rpycfsd

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/service"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/rpycfsd/export"
)

// Limits of sessions. A session that has lost its connection lives for the
// grace; one that was made but never used, for much less.
const (
	maxSessions        = 4096
	maxSessionsPerUser = 256
	defaultGrace       = 10 * time.Minute
	unusedGrace        = 30 * time.Second
	logoutGrace        = 2 * time.Second
	defaultLockGrace   = 30 * time.Second
)

// pingTimeout is how long nothing at all may arrive on a connection before it
// counts as lost.
const pingTimeout = 15 * time.Second

var (
	errLogout  = errors.New("the client logged out")
	errExpired = errors.New("the client did not come back")
	errUnknown = errors.New("no such session")
)

// sessions is the table of the daemon's sessions. It implements auth.Sessions.
//
// Lock order: sessions.mu, then session.mu, then the locks of the chat service.
// None is held while a session is ended.
type sessions struct {
	export *export.Export
	runAs  uint8 // the export's
	chat   *chat
	budget *rpc.Budget
	log    *slog.Logger

	grace     time.Duration // how long a session outlasts its connection
	lockGrace time.Duration // how long its locks do
	kept      *kept         // what the next process goes on with

	mu     sync.Mutex
	byID   map[auth.SessionID]*session
	users  map[string]int // sessions per user
	closed bool
	ending sync.WaitGroup
}

// session is one client's session. All that it holds, it holds through peer,
// files and chat.
type session struct {
	table  *sessions
	record *record
	id     auth.SessionID
	secret auth.Secret
	user   string
	peer   *rpc.Peer
	files  *export.Session
	chat   *service.Session // nil: the daemon serves none
	share  *rpc.Share
	log    *slog.Logger

	mu      sync.Mutex
	epoch   uint32      // the newest that was proven
	serving uint32      // the newest whose connection runs or ran
	expiry  *time.Timer // runs while there is no connection
	locks   *time.Timer // the same, for the session's locks
	over    bool
}

func newSessions(cfg *Config, e *export.Export, c *chat, k *kept) *sessions {
	return &sessions{
		export: e, runAs: cfg.RunAs, chat: c, kept: k, budget: rpc.NewBudget(budgetTotal, budgetShare), log: cfg.Log,
		grace: cmp.Or(cfg.SessionGrace, defaultGrace), lockGrace: cmp.Or(cfg.LockGrace, defaultLockGrace),
		byID: make(map[auth.SessionID]*session), users: make(map[string]int),
	}
}

// Create makes a session for a user who has just logged in.
func (t *sessions) Create(user auth.User, remote net.Addr) (auth.Grant, error) {
	s := &session{table: t, user: user.Name, epoch: 1}
	rand.Read(s.id[:])
	rand.Read(s.secret[:])
	s.log = t.log.With("user", user.Name, "session", fmt.Sprintf("%x", s.id[:4]))
	if err := t.reserve(user.Name); err != nil {
		return auth.Grant{}, err
	}
	id, err := exportIdentity(&user, t.runAs)
	if err == nil {
		s.files, err = t.export.NewSession(id)
	}
	if err != nil {
		t.unreserve(user.Name)
		return auth.Grant{}, fmt.Errorf("session of %s: %w", user.Name, err)
	}
	s.record = t.kept.begin(s)
	s.files.KeepAs(s.record.key())
	t.begin(s, rpc.Slots{})
	s.lost(0, unusedGrace, nil)
	s.log.Info("logged in", "from", remote)
	return auth.Grant{Session: s.id, Secret: s.secret, Slots: rpc.DefaultSlots}, nil
}

// begin puts a session together and enters it in the table.
func (t *sessions) begin(s *session, from rpc.Slots) {
	s.share = t.budget.User(s.user)
	mux := new(rpc.Mux)
	s.files.Register(mux)
	if s.chat = t.chat.session(s.user); s.chat != nil {
		s.chat.Register(mux)
	}
	cfg := rpc.Config{
		Root: mux, Share: s.share, PingTimeout: pingTimeout, Log: s.log, From: from,
		OnLogout: func() { t.loggedOut(s) }, Compress: rpc.CompressAuto,
	}
	if s.record != nil {
		cfg.Slots = s.record
	}
	s.peer = rpc.NewPeer(cfg)
	t.mu.Lock()
	t.byID[s.id] = s
	t.mu.Unlock()
}

// reserve takes a place for one more session of the user.
func (t *sessions) reserve(user string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	total := 0
	for _, n := range t.users {
		total += n
	}
	if t.closed || total >= maxSessions || t.users[user] >= maxSessionsPerUser {
		return fmt.Errorf("%w: %d sessions, %d of user %s", auth.ErrBusy, total, t.users[user], user)
	}
	t.users[user]++
	return nil
}

func (t *sessions) unreserve(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users[user]--; t.users[user] == 0 {
		delete(t.users, user)
	}
}

func (t *sessions) find(id auth.SessionID) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// Secret returns what a connection that belongs to the session can prove.
func (t *sessions) Secret(id auth.SessionID) (auth.Secret, string, bool) {
	s := t.find(id)
	if s == nil {
		return auth.Secret{}, "", false
	}
	return s.secret, s.user, true
}

// Resume admits a connection that has proven to belong to the session.
func (t *sessions) Resume(id auth.SessionID, purpose auth.Purpose, epoch uint32) error {
	s := t.find(id)
	if s == nil {
		return errUnknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
		return errUnknown
	case purpose == auth.Resume && epoch > s.epoch:
		s.epoch = epoch
		s.record.setEpoch(epoch)
		return nil
	case purpose == auth.Join && epoch == s.epoch:
		return nil
	}
	return fmt.Errorf("epoch %d where the session has %d", epoch, s.epoch)
}

// serve runs an authenticated connection until it ends.
func (t *sessions) serve(conn *auth.Conn) {
	s := t.find(conn.Session)
	if s == nil {
		conn.Close()
		return
	}
	if conn.Purpose == auth.Join {
		err := s.peer.ServeJoined(transport{conn}, conn.Epoch)
		s.log.Debug("joined connection ended", "err", err)
		return
	}
	if !s.take(conn.Epoch) {
		conn.Close()
		return
	}
	s.log.Debug("connection stands", "from", conn.RemoteAddr(), "epoch", conn.Epoch)
	err := s.peer.Serve(transport{conn}, conn.Epoch)
	s.log.Info("connection ended", "from", conn.RemoteAddr(), "epoch", conn.Epoch, "err", err)
	s.lost(conn.Epoch, t.grace, err)
}

// take stops the expiry for a connection, unless a newer one has come.
func (s *session) take(epoch uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || epoch <= s.serving {
		return false
	}
	s.serving = epoch
	if s.expiry != nil {
		s.expiry.Stop()
		s.locks.Stop()
		s.expiry, s.locks = nil, nil
	}
	if s.chat != nil {
		s.chat.Connected()
	}
	return true
}

// lost starts the expiry when the connection of this epoch was the newest. cause
// is why it ended. The grace of locks counts from the last sign of life.
func (s *session) lost(epoch uint32, grace time.Duration, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || epoch != s.serving {
		return
	}
	var silence time.Duration
	if errors.Is(cause, rpc.ErrIdle) {
		silence = pingTimeout
	}
	if s.chat != nil {
		s.chat.Lost(silence)
	}
	s.expiry = s.after(epoch, grace, func() { s.end(errExpired) })
	s.locks = s.after(epoch, s.table.lockGrace-silence, s.files.LoseLocks)
}

// after runs f unless a connection has come by then.
func (s *session) after(epoch uint32, d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(max(0, d), func() {
		s.mu.Lock()
		current := epoch == s.serving && !s.over
		s.mu.Unlock()
		if current {
			f()
		}
	})
}

// logout ends the session once the answer to the log-out is on its way.
func (s *session) logout() {
	ctx, cancel := context.WithTimeout(context.Background(), logoutGrace)
	defer cancel()
	s.peer.Drain(ctx)
	s.end(errLogout)
}

// end ends the session and gives back all that it held.
func (s *session) end(cause error) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over = true
	if s.expiry != nil {
		s.expiry.Stop()
		s.locks.Stop()
	}
	s.mu.Unlock()
	t := s.table
	t.mu.Lock()
	delete(t.byID, s.id)
	t.mu.Unlock()
	if s.chat != nil {
		s.chat.Close() // first, so that its listeners go in one step
	}
	s.peer.End(cause)
	s.record.end()
	s.files.Close()
	s.share.Close()
	t.unreserve(s.user)
	if s.record != nil && cause == errShutdown {
		s.log.Info("session waits for the next start")
		return
	}
	s.log.Info("session ended", "cause", cause)
}

// loggedOut ends a session whose client has logged out. Once the table is being
// closed that is close's to do, which waits for what was begun before.
func (t *sessions) loggedOut(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.ending.Go(s.logout)
	}
}

// close drains and ends all sessions: what runs is finished and answered until
// ctx ends. What is recorded then stays so, for the next process.
func (t *sessions) close(ctx context.Context) {
	t.mu.Lock()
	t.closed = true
	all := make([]*session, 0, len(t.byID))
	for _, s := range t.byID {
		all = append(all, s)
	}
	t.mu.Unlock()
	for _, s := range all {
		t.ending.Go(func() {
			if err := s.peer.Drain(ctx); err != nil {
				s.log.Warn("calls were still running at shutdown", "err", err)
			}
		})
	}
	t.ending.Wait()
	t.kept.freeze()
	for _, s := range all {
		t.ending.Go(func() { s.end(errShutdown) })
	}
	t.ending.Wait()
}

// transport lets the RPC layer flush what the connection holds back.
type transport struct{ *auth.Conn }

func (t transport) Flush() error { return t.Raw.Flush() }

func (t transport) Features() uint64 { return t.Conn.Features }

// Close does without TLS's farewell, which would wait for a peer that does not
// read; frames tell where the data ends.
func (t transport) Close() error { return t.Raw.Close() }
