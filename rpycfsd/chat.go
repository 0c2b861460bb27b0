package rpycfsd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/service"
	"github.com/rpycfs/rpycfs/chat/store"
)

// noticeTimeout is how long listeners have to take the notice that the daemon
// stops.
const noticeTimeout = time.Second

// ChatConfig describes the chat service. The zero value serves it with the
// defaults of package service, and keeps everything.
type ChatConfig struct {
	Off    bool
	Grace  time.Duration   // how long a user whose connection is lost is not yet offline; 0: the default
	Rate   float64         // messages per second and user; 0: the default, negative: no limit
	Retain store.Retention // for rooms that set none
}

// retryEvery is how often a daemon looks whether the one that serves the chat of
// its state directory has ended.
const retryEvery = time.Second

// chat is the chat service with its store. Its methods do nothing if it is nil.
type chat struct {
	service *service.Service
	config  store.Config
	store   *store.Store // nil while another daemon has the database

	waiting sync.WaitGroup // for that daemon to end
	stopped chan struct{}  // closed by close
}

// openChat opens the database in the state directory. It returns nil if there
// is to be no chat.
func openChat(cfg ChatConfig, state string, users *auth.Users, log *slog.Logger) (*chat, error) {
	if cfg.Off {
		return nil, nil
	}
	exists := accounts(users, log)
	c := &chat{
		service: service.New(service.Config{Users: exists, Grace: cfg.Grace, Rate: cfg.Rate, Log: log}),
		stopped: make(chan struct{}),
	}
	c.config = store.Config{
		Path: filepath.Join(state, "chat.db"), Users: exists, Committed: c.service.Committed, Retain: cfg.Retain, Log: log,
	}
	switch err := c.open(); {
	case errors.Is(err, store.ErrInUse):
		log.Warn("another daemon serves the chat of this state directory; this one takes over when it ends; --state=DIR gives it a chat of its own",
			"state", state)
		c.waiting.Go(func() { c.takeOver(log) })
	case err != nil:
		return nil, explainChat(err)
	}
	return c, nil
}

// open opens the store and gives it to the service.
func (c *chat) open() (err error) {
	if c.store, err = store.Open(context.Background(), c.config); err != nil {
		return err
	}
	c.service.Use(c.store)
	return nil
}

// takeOver opens the store when the daemon that has it open is gone.
func (c *chat) takeOver(log *slog.Logger) {
	for tick := time.NewTicker(retryEvery); ; {
		select {
		case <-c.stopped:
			tick.Stop()
			return
		case <-tick.C:
		}
		err := c.open()
		if errors.Is(err, store.ErrInUse) {
			continue
		}
		tick.Stop()
		if err != nil {
			log.Error("no chat is served", "err", explainChat(err))
			return
		}
		log.Info("the daemon that served the chat has ended; this one does now")
		return
	}
}

// accounts returns a function that reports whether an account exists. One that
// was made a moment ago does.
func accounts(users *auth.Users, log *slog.Logger) func(name string) bool {
	return func(name string) bool {
		if _, ok := users.Lookup(name); ok {
			return true
		}
		if err := users.Refresh(); err != nil {
			log.Error("users file not reloaded, the old users stay", "err", err)
		}
		_, ok := users.Lookup(name)
		return ok
	}
}

// explainChat says what to do about a database that does not open.
func explainChat(err error) error {
	advice := "restore the file, or move it away to begin with an empty one; --no-chat serves without it"
	switch {
	case errors.Is(err, store.ErrNewer):
		advice = "run that version, or move the file away to begin with an empty one; --no-chat serves without it"
	case errors.Is(err, fs.ErrPermission):
		advice = "choose a directory that can be written with --state; --no-chat serves without it"
	}
	return fmt.Errorf("chat: %w; %s", err, advice)
}

// session returns the chat of a new session, nil if there is none.
func (c *chat) session(user string) *service.Session {
	if c == nil {
		return nil
	}
	return c.service.NewSession(user)
}

// stop tells the listeners that the daemon stops.
func (c *chat) stop(ctx context.Context) {
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, noticeTimeout)
	defer cancel()
	c.service.Stop(ctx, "the server is shutting down")
}

// close ends the service when all sessions have ended, and then the store.
func (c *chat) close(log *slog.Logger) {
	if c == nil {
		return
	}
	close(c.stopped)
	c.waiting.Wait()
	c.service.Close()
	if c.store == nil {
		return
	}
	if err := c.store.Close(); err != nil {
		log.Error("chat: the database did not close well", "err", err)
	}
}
