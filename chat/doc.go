// Package chat is the client of a daemon's chat service, for programs: a
// terminal, a script, a bot.
//
//	c, err := chat.Dial(ctx, chat.Config{Address: "host:19912", Auth: auth})
//	room, err := c.Join(ctx, "lobby")
//	for e := range c.Events(ctx) {
//		if m, ok := e.(*chat.Message); ok && m.Text == "ping" && m.From != c.User() {
//			_, err = room.Send("pong")
//		}
//	}
//
// # What holds
//
// A message that Say has returned is on the server's disk. One that Send has
// returned is in the outbox, which is on this machine's disk if there is a state
// directory: it goes out once, in the order in which it was said in its room,
// over lost connections, a restarted daemon and the death of this process; or a
// Failed event tells why not.
//
// The entries of a room come as events each once and in order, over all of that
// as well. A program that is slow to take events is cut off from the live feed
// and goes on from the history: it holds up neither the server nor anybody else,
// and it misses no entry. Presence, typing and marks are states: of several
// changes that a program was too slow for, it sees the last.
//
// What others say is handed out as they said it. Whoever shows it on a terminal
// sees to it that it is harmless there.
//
// # How it works
//
// A Client logs in and attaches a listener, which the server calls. That is a
// link; when its session is over, the next one is made, with back-off.
//
//	run:  connect -> snapshot -> catch up -> take events -+-> session over: again
//	                    ^                                 |
//	                    +------------- cut off -----------+
//
// One goroutine (Client.run, as the pump) takes what the server delivers, keeps
// the tables of rooms and users, and hands out events. For each room it has a
// cursor, the sequence number of the last entry that was handed out: what is not
// above it is dropped, and what is missing before the next one is fetched from
// the history. The server's calls are answered when the pump has taken what they
// carry, so that no more than one delivery and a short queue wait here.
//
// The outbox has a goroutine for each room in which something is to be said. It
// sends one message after the other, each under an id that it keeps for good, so
// that the server can tell what it has already.
//
// # Locks
//
// outbox.mu, then Client.mu; link.mu, sealed.mu are taken alone. No lock is held
// while the server is called, but for the room's in package local, which makes
// sealing and saying, and opening, one step at a time for all programs.
package chat
