package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/e2ee"
)

// sealedWorld is a chat world whose clients talk through a proxy that records.
type sealedWorld struct {
	*chatWorld
	proxy *proxy
}

// device logs a user in from a device, whose keys are in a directory of its own.
func (w *sealedWorld) device(user, device string) *chat.Client {
	w.t.Helper()
	cfg := w.config(user)
	w.withState(device)(&cfg)
	cfg.Device = device
	cfg.Address = fmt.Sprintf("127.0.0.1:%d", w.proxy.port)
	return w.dialConfig(cfg)
}

// enrolled waits until a device may use sealed rooms.
func enrolled(t *testing.T, c *chat.Client) {
	t.Helper()
	if !eventually(patience, func() bool { return c.Enrolled(chatContext(t)) == nil }) {
		t.Fatalf("a device of %s is not enrolled: %v", c.User(), c.Enrolled(chatContext(t)))
	}
}

// sayTo says something that has to be heard, sealed and without a warning.
func sayTo(t *testing.T, r *chat.Room, text string, listeners ...*chat.Client) {
	t.Helper()
	if _, err := r.Say(chatContext(t), text); err != nil {
		t.Fatalf("say %q: %v", text, err)
	}
	for _, c := range listeners {
		if m := hearText(t, c, text); m == nil || !m.Sealed || m.Closed || m.Refused || len(m.Warnings) > 0 {
			t.Errorf("%s heard %+v", c.User(), m)
		}
	}
}

// holds reports whether a client finds a text in a room's history, whatever it
// may have to be told.
func holds(t *testing.T, c *chat.Client, room, text string) bool {
	t.Helper()
	r, err := c.Room(room)
	if err != nil {
		return false
	}
	page, err := r.History(chatContext(t), 0, chatproto.MaxPage)
	if err != nil {
		t.Logf("the history of %s: %v", c.User(), err)
		return false
	}
	for _, m := range page {
		if m.Text == text {
			return true
		}
	}
	return false
}

// TestH7SealedRoom: what is said in a sealed room is read by its members and by
// nobody else; the server's files, the wire and the log do not hold it.
func TestH7SealedRoom(t *testing.T) {
	const one, two, three, topic = "the eagle has landed on the roof", "then feed the eagle well", "bob must not know of the eagle", "all about eagles"
	w := &sealedWorld{chatWorld: newChatWorld(t, "alice", "bob")}
	w.stop()
	w.args = append(w.args, "--log-level=debug")
	w.startDaemon()
	w.proxy = newProxy(t, w.port, true)
	alice, bob := w.device("alice", "laptop"), w.device("bob", "desk")
	enrolled(t, alice)
	enrolled(t, bob)

	vault, err := alice.Create(chatContext(t), "vault", chatproto.RoomSealed, topic)
	must(t, err)
	must(t, vault.Invite(chatContext(t), "bob"))
	hear(t, bob, func(e *chat.RoomChanged) bool { return e.New && e.Room.Name == "vault" })
	theirs, err := bob.Room("vault")
	must(t, err)
	sayTo(t, vault, one, alice, bob)
	sayTo(t, theirs, two, alice, bob)
	for _, c := range []*chat.Client{alice, bob} {
		if found, cursor, err := c.Search(chatContext(t), "feed in:vault", chat.Cursor{}, 10); err != nil || len(found) != 1 || found[0].Text != two || !cursor.Done() {
			t.Errorf("%s found %+v, %v", c.User(), found, err)
		}
	}
	numbers := make(map[string]bool)
	for c, other := range map[*chat.Client]string{alice: "bob", bob: "alice"} {
		digits, err := c.Fingerprint(chatContext(t), other)
		must(t, err)
		numbers[digits] = true
		must(t, c.Verify(chatContext(t), other))
	}
	if len(numbers) != 1 {
		t.Errorf("the two see different numbers: %v", numbers)
	}

	// A device that comes later reads nothing until it has been let in.
	phone := w.device("alice", "phone")
	if err := phone.Enrolled(chatContext(t)); !errors.Is(err, e2ee.ErrNotEnrolled) {
		t.Errorf("a new device: %v", err)
	}
	if holds(t, phone, "vault", one) {
		t.Error("a device that is not enrolled reads the history")
	}
	if _, err := alice.Enrol(chatContext(t), "AAAA-AAAA-AAAA-AAAA-AAAA"); err == nil {
		t.Error("a wrong code lets somebody in")
	}
	code, err := phone.EnrolRequest(chatContext(t))
	must(t, err)
	_, err = alice.Enrol(chatContext(t), code)
	must(t, err)
	enrolled(t, phone)
	for _, text := range []string{one, two} {
		if !eventually(patience, func() bool { return holds(t, phone, "vault", text) }) {
			t.Errorf("the new device does not read %q", text)
		}
	}
	hear(t, bob, func(e *chat.Warning) bool { return e.User == "alice" && e.RoomName == "vault" })

	must(t, vault.Remove(chatContext(t), "bob"))
	hear(t, bob, func(e *chat.RoomGone) bool { return e.Room.Name == "vault" })
	sayTo(t, vault, three, alice, phone)
	if holds(t, bob, "vault", three) {
		t.Error("a removed member reads on")
	}
	if _, err := theirs.Say(chatContext(t), "let me in"); !errors.Is(err, chatproto.ErrNoRoom) {
		t.Errorf("a removed member says: %v", err)
	}

	// All devices lost: the printed key opens everything.
	printed, err := alice.Recovery()
	must(t, err)
	spare := w.device("alice", "spare")
	if err := spare.Recover(chatContext(t), strings.Replace(printed, printed[:1], "9", 1)); err == nil {
		t.Error("a mistyped recovery key is taken")
	}
	must(t, spare.Recover(chatContext(t), printed))
	for _, text := range []string{one, two, three} {
		if !eventually(patience, func() bool { return holds(t, spare, "vault", text) }) {
			t.Errorf("the recovered device does not read %q", text)
		}
	}
	w.checkNoPlainText(one, two, three, topic, printed)
}

// checkNoPlainText looks for the secrets in all that the server has and in all
// that has crossed the wire.
func (w *sealedWorld) checkNoPlainText(secrets ...string) {
	w.t.Helper()
	w.stop()
	places := map[string][]byte{"the daemon's log": []byte(w.daemonLog())}
	must(w.t, filepath.WalkDir(filepath.Join(w.dir, "state"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		places[path], err = os.ReadFile(path)
		return err
	}))
	total := 0
	for i, b := range w.proxy.recorded() {
		places[fmt.Sprint("recording ", i)] = b
		total += len(b)
	}
	if len(places) < 6 || total < 10_000 {
		w.t.Errorf("%d places and %d bytes from the wire cannot be all", len(places), total)
	}
	for where, content := range places {
		for _, secret := range secrets {
			for _, part := range []string{secret, secret[:12], secret[len(secret)-12:]} {
				if bytes.Contains(content, []byte(part)) {
					w.t.Errorf("%s holds %q", where, part)
				}
			}
		}
	}
}
