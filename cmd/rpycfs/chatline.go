package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

const (
	// maxWaiting is how many lines are on their way before the next is read.
	maxWaiting = 64
	// echoTimeout is how long the end waits for what was said to come back.
	echoTimeout = 10 * time.Second
)

// lineClient says what it reads and prints what is said in one room.
type lineClient struct {
	env    *environment
	client *chat.Client
	room   *chat.Room
	print  printer

	echoed chan chatproto.ID // what was said and has come back
	told   teller            // the printing goroutine's until it has ended
}

// lines is rpycfs chat without a terminal.
func (o *chatOpen) lines(env *environment) error {
	c, err := o.connect(env, chat.Config{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(env.ctx, callTimeout)
	r, err := openRoom(ctx, c, o.Room)
	cancel()
	if err == nil {
		l := &lineClient{env: env, client: c, room: r, print: printer{env.stdout, o.JSON}, echoed: make(chan chatproto.ID, maxWaiting)}
		err = l.run(o.Follow)
	}
	return errors.Join(err, c.Close())
}

// run ends when the input has ended and all of it is acknowledged, or, if it
// follows, when ctx or the session ends.
func (l *lineClient) run(follow bool) error {
	ctx, cancel := context.WithCancelCause(l.env.ctx)
	defer cancel(nil)
	printed := make(chan error, 1)
	go func() { printed <- l.printAll(ctx, cancel) }()

	last, err := l.sayAll(ctx)
	if err == nil {
		err = l.client.Flush(ctx)
	}
	if err == nil {
		l.awaitEcho(ctx, last)
	}
	if err == nil && follow {
		<-ctx.Done()
	}
	ended := l.client.Err()
	cancel(nil)
	perr := <-printed
	switch {
	case perr != nil:
		return perr
	case ended != nil:
		return ended
	case err != nil && l.env.ctx.Err() == nil:
		return err
	case l.told.refused > 0:
		return fmt.Errorf("%d messages were refused", l.told.refused)
	}
	return l.waiting()
}

// waiting tells of what an interrupted program leaves in the outbox.
func (l *lineClient) waiting() error {
	if n := l.client.Status().Outbox; n > 0 {
		return &failure{exitQueued, fmt.Errorf("%d messages wait to be sent", n)}
	}
	return nil
}

// sayAll says every line of the input that is not empty. It returns the last.
func (l *lineClient) sayAll(ctx context.Context) (last chatproto.ID, err error) {
	lines, failed := readLines(ctx, l.env.stdin)
	for {
		select {
		case text, ok := <-lines:
			if !ok {
				return last, <-failed
			}
			id, err := l.say(ctx, text)
			if err != nil {
				return last, err
			}
			if id != (chatproto.ID{}) {
				last = id
			}
		case <-ctx.Done():
			return last, nil
		}
	}
}

// say says a line, unless it says nothing. It waits while many are on their way.
func (l *lineClient) say(ctx context.Context, text string) (chatproto.ID, error) {
	if strings.TrimSpace(text) == "" {
		return chatproto.ID{}, nil
	}
	if err := chatproto.CheckText(text, chatproto.MaxText); err != nil {
		l.env.warn("a line was left out: %w", err)
		return chatproto.ID{}, nil
	}
	id, err := l.room.Send(text)
	if err == nil && l.client.Status().Outbox >= maxWaiting {
		err = l.client.Flush(ctx)
	}
	return id, err
}

// readLines reads in a goroutine of its own, which ends with the input, or with
// the first line after the end of ctx: a read cannot be called off.
func readLines(ctx context.Context, r io.Reader) (<-chan string, <-chan error) {
	lines, failed := make(chan string), make(chan error, 1)
	go func() {
		defer close(lines)
		in := bufio.NewReaderSize(r, chatproto.MaxText+2)
		for {
			line, err := readLine(in)
			if err != nil && line == "" {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				failed <- err
				return
			}
			select {
			case lines <- line:
			case <-ctx.Done():
				failed <- nil
				return
			}
		}
	}()
	return lines, failed
}

// readLine returns the next line without its end. Of one that is too long, which
// will be refused, it returns as much as shows that.
func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = in.ReadSlice('\n')
	}
	return text, err
}

// printAll prints the room's messages until ctx or the session ends; then it
// ends the reading, too.
func (l *lineClient) printAll(ctx context.Context, cancel context.CancelCauseFunc) error {
	defer cancel(chat.ErrClosed)
	for e := range l.client.Events(ctx) {
		if err := l.event(e); err != nil {
			return err
		}
	}
	return nil
}

func (l *lineClient) event(e chat.Event) error {
	switch e := e.(type) {
	case *chat.Message:
		if e.Room != l.room.ID() || e.Pending {
			return nil
		}
		err := l.print.message(e)
		if e.From == l.client.User() {
			l.settled(e.ID)
		}
		return err
	case *chat.Failed:
		l.told.report(l.env, e)
		l.settled(e.Message.ID)
	case *chat.RoomGone:
		if e.Room.ID == l.room.ID() {
			return errors.New("you are no longer in " + roomTitle(l.room.Name()))
		}
	default:
		l.told.report(l.env, e)
	}
	return nil
}

// settled notes that a message of this program has come back or was refused. An
// older note gives way if nobody has taken it.
func (l *lineClient) settled(id chatproto.ID) {
	select {
	case l.echoed <- id:
	default:
		select {
		case <-l.echoed:
		default:
		}
		l.echoed <- id
	}
}

// teller prints on standard error what a person should know and is no message.
type teller struct {
	refused int  // messages
	lost    bool // the connection
}

func (t *teller) report(env *environment, e chat.Event) {
	switch e := e.(type) {
	case *chat.Failed:
		t.refused++
		env.warn("not sent: %w: %s", e.Err, e.Message.Text)
	case *chat.Notice:
		env.warn("server: %s", e.Text)
	case *chat.Warning:
		env.warn("%s: %s", roomTitle(e.RoomName), e.Text)
	case *chat.Connection:
		switch {
		case !e.Status.Connected && !t.lost:
			env.warn("the connection is lost; trying again")
		case e.Status.Connected && t.lost:
			env.warn("connected again")
		}
		t.lost = !e.Status.Connected
	}
}

// awaitEcho waits until the last message has come back and is printed. An
// event that was dropped meanwhile is no reason to wait for ever.
func (l *lineClient) awaitEcho(ctx context.Context, last chatproto.ID) {
	if last == (chatproto.ID{}) {
		return
	}
	timeout := time.After(echoTimeout)
	for {
		select {
		case id := <-l.echoed:
			if id == last {
				return
			}
		case <-timeout:
			return
		case <-ctx.Done():
			return
		}
	}
}
