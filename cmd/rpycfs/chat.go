package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/chatui"
	"github.com/rpycfs/rpycfs/internal/login"
)

// chatCommands are the commands of rpycfs chat. The first needs no name, so that
// both "rpycfs chat HOST" and "rpycfs chat say HOST …" work; a host with the
// name of a command is reached as USER@HOST.
type chatCommands struct {
	Open    chatOpen    `cmd:"" default:"withargs" help:"Open the terminal interface; this needs no name: rpycfs chat HOST [ROOM]. Without a terminal, say standard input line by line and print what is said."`
	Say     chatSay     `cmd:"" help:"Say one message and wait until the server has it on disk."`
	Log     chatLog     `cmd:"" help:"Print what was said in a room."`
	Search  chatSearch  `cmd:"" help:"Search what was said in all rooms."`
	Rooms   chatRooms   `cmd:"" help:"List the rooms that there are."`
	Who     chatWho     `cmd:"" help:"List who is there, or who is in a room."`
	Devices chatDevices `cmd:"" help:"List and change the devices that can open sealed rooms."`
}

// callTimeout bounds what a command asks the server.
const callTimeout = 30 * time.Second

// chatLogin is how all commands of the chat reach the server.
type chatLogin struct {
	Host string `arg:"" placeholder:"[USER@]HOST[:PORT]" help:"The server, as [user@]host[:port]."`

	loginFlags
	State   string `placeholder:"DIR" help:"Where messages that wait, keys and the history of sealed rooms are kept ($XDG_STATE_HOME/rpycfs/chat)."`
	NoState bool   `help:"Keep nothing on this machine; sealed rooms cannot be used."`
	Device  string `placeholder:"NAME" help:"What others see as the name of this device (the host's name)."`
}

// connect logs in.
func (l *chatLogin) connect(env *environment, cfg chat.Config) (*chat.Client, error) {
	target, err := login.ParseTarget(l.Host)
	if err != nil {
		return nil, err
	}
	p, err := l.person(target.User, target.Address)
	if err != nil {
		return nil, err
	}
	if cfg.State, err = l.stateDir(); err != nil {
		return nil, err
	}
	cfg.Address, cfg.Device = target.Address, l.Device
	terminal := login.OpenTerminal()
	defer terminal.Close()
	return login.Connect(env.ctx, p, terminal, l.Timeout, func(ctx context.Context, a *auth.Client) (*chat.Client, error) {
		var drawn atomic.Bool // on the terminal, later: nothing may be printed there
		defer drawn.Store(true)
		a.Warn = func(err error) {
			if !drawn.Load() {
				env.warn("%w", err)
			}
		}
		cfg.Auth = a
		c, err := chat.Dial(ctx, cfg)
		if err == nil && stranger(c) {
			err = errors.Join(c.Status().LastError, c.Close())
		}
		return c, err
	})
}

// stranger reports whether the server cannot be reached and never was: what is
// said to a mistyped host must not wait for ever.
func stranger(c *chat.Client) bool {
	s := c.Status()
	return !s.Connected && s.LastError != nil && len(c.Rooms()) == 0
}

// stateDir returns the directory for what is kept; "" for none.
func (l *chatLogin) stateDir() (string, error) {
	if l.NoState {
		return "", nil
	}
	if l.State != "" {
		return filepath.Abs(l.State)
	}
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no directory to keep the chat's state in: %w; give --state DIR or --no-state", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "rpycfs", "chat"), nil
}

// with logs in, runs f with a time-out and logs out.
func (l *chatLogin) with(env *environment, cfg chat.Config, f func(ctx context.Context, c *chat.Client) error) error {
	c, err := l.connect(env, cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(env.ctx, callTimeout)
	defer cancel()
	err = f(ctx, c)
	if err != nil && c.Err() != nil {
		err = c.Err() // why nothing went
	}
	return errors.Join(err, finish(env, c))
}

// flushTimeout bounds how long a command stays for messages that earlier ones
// have left in the outbox.
const flushTimeout = 5 * time.Second

// finish ends the client. What waits in the outbox goes out first, if it can.
func finish(env *environment, c *chat.Client) error {
	if s := c.Status(); s.Connected && s.Outbox > 0 {
		ctx, cancel := context.WithTimeout(env.ctx, flushTimeout)
		_ = c.Flush(ctx) // or it waits for the next
		cancel()
	}
	return c.Close()
}

// openRoom returns a room that the user is in, the direct room with @user, or a
// public room after joining it.
func openRoom(ctx context.Context, c *chat.Client, name string) (*chat.Room, error) {
	r, err := c.Room(name)
	if err == nil {
		return r, nil
	}
	if s := c.Status(); !s.Connected && s.LastError != nil {
		return nil, fmt.Errorf("%s: the server cannot be reached, and this room is not known here: %w", name, s.LastError)
	}
	if user, direct := strings.CutPrefix(name, "@"); direct {
		r, err = c.Direct(ctx, user)
	} else {
		r, err = c.Join(ctx, strings.TrimPrefix(name, "#"))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// memberRoom returns a room that the user is in.
func memberRoom(c *chat.Client, name string) (*chat.Room, error) {
	r, err := c.Room(name)
	if errors.Is(err, chatproto.ErrNoRoom) {
		return nil, fmt.Errorf("%s: %w; a public room is joined by: rpycfs chat HOST ROOM", name, err)
	}
	return r, err
}

// chatOpen is rpycfs chat HOST [ROOM].
type chatOpen struct {
	chatLogin
	Room   string `arg:"" optional:"" default:"lobby" help:"The room to show first: its name, or @USER."`
	Line   bool   `help:"Be a line client, even on a terminal."`
	JSON   bool   `name:"json" help:"Print one JSON object per line; implies --line."`
	Follow bool   `short:"f" help:"As a line client, go on printing after the end of standard input."`
}

// Run shows the interface, or is a line client where there is no terminal.
func (o *chatOpen) Run(env *environment) error {
	if o.Line || o.JSON || o.Follow || !isTerminal(env.stdin) || !isTerminal(env.stdout) {
		return o.lines(env)
	}
	c, err := o.connect(env, chat.Config{})
	if err != nil {
		return err
	}
	server := o.Host[strings.LastIndexByte(o.Host, '@')+1:]
	err = chatui.Run(env.ctx, c, server, strings.TrimPrefix(o.Room, "#"))
	return errors.Join(err, c.Close())
}

func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
