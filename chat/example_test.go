package chat_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat"
)

// A bot that answers to "ping".
func Example() {
	ctx := context.Background()
	c, err := chat.Dial(ctx, chat.Config{
		Address: "chat.example.org:19912",
		Auth: &auth.Client{
			Host: "chat.example.org:19912", User: "pong", KnownHosts: "known_hosts",
			Password: func() (string, error) {
				b, err := os.ReadFile("password")
				return strings.TrimSpace(string(b)), err
			},
		},
		State: "state", // what was said survives this program
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer c.Close()
	if _, err := c.Join(ctx, "lobby"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	for e := range c.Events(ctx) {
		m, ok := e.(*chat.Message)
		if !ok || m.Text != "ping" {
			continue
		}
		if room, err := c.Room(m.RoomName); err == nil {
			_, _ = room.Send("pong, " + m.From)
		}
	}
}
