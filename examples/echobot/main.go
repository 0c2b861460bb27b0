// Echobot repeats what it is told: in the lobby after its name, or whispered.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"strings"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat"
)

func main() {
	address := flag.String("address", "localhost:19912", "the daemon's `host:port`")
	user, file := flag.String("user", "echobot", "its account"), flag.String("password-file", "password", "`file` with its password")
	flag.Parse()
	ctx, password := context.Background(), strings.TrimSpace(string(must(os.ReadFile(*file))))
	c := must(chat.Dial(ctx, chat.Config{Address: *address, Auth: &auth.Client{Host: *address, User: *user,
		KnownHosts: *file + ".known_hosts", Password: func() (string, error) { return password, nil }}}))
	must(c.Join(ctx, "lobby"))
	for e := range c.Events(ctx) {
		if m, ok := e.(*chat.Message); ok && m.Said() && m.From != *user {
			text, named := strings.CutPrefix(m.Text, *user)
			if r, err := c.Room(m.RoomName); err == nil && (named || r.Name() == "@"+m.From) {
				must(r.Send(m.From + " said: " + strings.TrimLeft(text, ":, ")))
			}
		}
	}
	log.Fatal(c.Err())
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
