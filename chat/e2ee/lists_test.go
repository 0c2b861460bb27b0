package e2ee

import (
	"slices"
	"testing"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// Even who holds the recovery key cannot make a list that others take if it does
// not go on from the one before.
func TestListsThatDoNotFollow(t *testing.T) {
	seed, other := hash{1}, hash{2}
	device := func(n byte) listDevice {
		k := newDeviceKeys(hash{n}, hash{n, n})
		return listDevice{Name: "d", Sign: k.signPub, Box: k.boxPub, Added: int64(n)}
	}
	first := &deviceList{User: "bob", Version: 1, Devices: []listDevice{device(1), device(2)}}
	first.Devices[1].Revoked = 5
	raw, err := signList(first, seed, nil)
	must(t, err)
	l, h, err := verifyList("bob", nil, hash{}, raw)
	must(t, err)
	try := func(seed hash, old *hash, change func(*deviceList)) error {
		next := *l
		next.Version, next.Prev = 2, h
		next.Devices = append(slices.Clone(l.Devices), device(3))
		if change != nil {
			change(&next)
		}
		raw, err := signList(&next, seed, old)
		if err != nil {
			return err
		}
		_, _, err = verifyList("bob", l, h, raw)
		return err
	}
	must(t, try(seed, nil, nil))
	must(t, try(other, &seed, nil))
	must(t, try(seed, nil, func(l *deviceList) { l.Devices[0].Revoked = 9; l.Devices[0].Holder = true }))
	for name, change := range map[string]func(*deviceList){
		"another user":    func(l *deviceList) { l.User = "alice" },
		"same version":    func(l *deviceList) { l.Version = 1; l.Prev = hash{} },
		"skips a version": func(l *deviceList) { l.Version = 3 },
		"another past":    func(l *deviceList) { l.Prev[0] ^= 1 },
		"forgets":         func(l *deviceList) { l.Devices = l.Devices[:1] },
		"reorders":        func(l *deviceList) { slices.Reverse(l.Devices) },
		"renames":         func(l *deviceList) { l.Devices[0].Name = "e" },
		"changes a key":   func(l *deviceList) { l.Devices[0].Box[0] ^= 1 },
		"changes a date":  func(l *deviceList) { l.Devices[0].Added++ },
		"unrevokes":       func(l *deviceList) { l.Devices[1].Revoked = 0 },
		"moves the end":   func(l *deviceList) { l.Devices[1].Revoked++ },
		"twice":           func(l *deviceList) { l.Devices[2] = l.Devices[0] },
		"unprintable":     func(l *deviceList) { l.Devices[2].Name = "a\x1b[2J" },
		"too many": func(l *deviceList) {
			for n := range byte(chatproto.MaxDevices) {
				l.Devices = append(l.Devices, device(n+10))
			}
		},
	} {
		if err := try(seed, nil, change); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := try(other, nil, nil); !isRefusal(err) {
		t.Errorf("another identity without consent: %v", err)
	}
	if err := try(other, &hash{3}, nil); !isRefusal(err) {
		t.Errorf("another identity with a stranger's consent: %v", err)
	}
	if err := try(seed, &seed, nil); !isRefusal(err) {
		t.Errorf("a rotation to the same: %v", err)
	}
}

// A member who does not own the room cannot put others out in the others' eyes,
// whatever the server lets through.
func TestOnlyTheOwnerRemoves(t *testing.T) {
	s, alice, bob, room := three(t)
	carol := s.person(t, "carol")
	alice.invite(room, "carol")
	alice.say(room, "hi carol")
	bob.pull(room)
	id := newID()
	proof, err := bob.e.RemoveProof(t.Context(), bob.v, room, id, "carol")
	must(t, err)
	s.rooms[room].append(chatproto.Message{ID: id, Kind: chatproto.KindRemove, From: "bob", Target: "carol", Body: proof})
	alice.pull(room)
	alice.wantWarning("bob does not own the room")
	_ = carol
}
