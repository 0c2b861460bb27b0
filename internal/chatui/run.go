package chatui

import (
	"context"
	"errors"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
)

// Run shows the interface on the terminal until the person ends it or ctx ends.
// server is the name in the status line, room the room to show first: a name, or
// @user. The client is not closed.
func Run(ctx context.Context, client *chat.Client, server, room string) error {
	ctx, cancel := context.WithCancel(ctx)
	m := newModel(ctx, library{client}, server, room, time.Now)
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		m.pump()
	}()
	_, err := tea.NewProgram(m, tea.WithContext(ctx)).Run()
	cancel()
	<-pumped
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}
