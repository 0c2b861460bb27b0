package chatui

import (
	"context"
	"errors"
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
)

// cmdDevices is /devices, for the keys that open sealed rooms.
func (m *model) cmdDevices(args string) tea.Cmd {
	word, rest, _ := strings.Cut(args, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case word == "enrol" || word == "enroll":
		return m.enrol(rest)
	case word == "revoke" && rest != "":
		return m.revoke(rest)
	case word == "recovery":
		return m.ask(func(context.Context) (string, error) {
			key, err := m.client.Recovery()
			return "recovery key: " + key + "\nWrite it down and put it away: with it a new device is enrolled when all others are lost, by whoever has it.", err
		})
	case word == "recover" && rest != "":
		return m.ask(func(ctx context.Context) (string, error) {
			return "this device is enrolled by the recovery key", m.client.Recover(ctx, rest)
		})
	case word == "revoke" || word == "recover":
		m.note(kindError, "usage: /devices revoke ID, or /devices recover KEY")
		return nil
	}
	user := strings.TrimPrefix(word, "@")
	if user == "" {
		return m.ownDevices()
	}
	return m.ask(func(ctx context.Context) (string, error) {
		devices, err := m.client.Devices(ctx, user)
		if err != nil {
			return "", err
		}
		return "devices of " + user + ":\n" + describeDevices(devices), nil
	})
}

// ownDevices also tells whether this one may open sealed rooms.
func (m *model) ownDevices() tea.Cmd {
	return m.ask(func(ctx context.Context) (string, error) {
		enrolled := m.client.Enrolled(ctx) // makes this device's keys at first use
		devices, err := m.client.Devices(ctx, m.client.User())
		if err != nil {
			return "", err
		}
		text := "your devices:\n" + describeDevices(devices)
		if enrolled != nil {
			text += "\n" + enrolled.Error() + "; /devices enrol begins that"
		}
		return text, nil
	})
}

func describeDevices(devices []chat.Device) string {
	if len(devices) == 0 {
		return "none"
	}
	var lines []string
	for _, d := range devices {
		line := fmt.Sprintf("%s  %s  since %s", d.ID, d.Name, d.Added.Local().Format("2006-01-02"))
		if d.This {
			line += ", this one"
		}
		if d.Revoked {
			line += ", revoked"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// enrol asks for a code on the new device, or takes the code on an old one.
func (m *model) enrol(code string) tea.Cmd {
	return m.ask(func(ctx context.Context) (string, error) {
		if code != "" {
			d, err := m.client.Enrol(ctx, code)
			return "device " + d.Name + " is enrolled", err
		}
		code, err := m.client.EnrolRequest(ctx)
		return "enter this on a device that is enrolled already:  /devices enrol " + code, err
	})
}

// revoke takes the first digits of a device's number.
func (m *model) revoke(prefix string) tea.Cmd {
	return m.ask(func(ctx context.Context) (string, error) {
		devices, err := m.client.Devices(ctx, m.client.User())
		if err != nil {
			return "", err
		}
		id, err := findDevice(devices, prefix)
		if err != nil {
			return "", err
		}
		rotated, err := m.client.Revoke(ctx, id)
		text := "device " + id.String() + " is revoked"
		if rotated {
			text += "; the recovery key has changed: /devices recovery shows the new one"
		}
		return text, err
	})
}

func findDevice(devices []chat.Device, prefix string) (id chatproto.DeviceID, err error) {
	found := 0
	for _, d := range devices {
		if !d.Revoked && strings.HasPrefix(d.ID.String(), strings.ToLower(prefix)) {
			id = d.ID
			found++
		}
	}
	switch found {
	case 0:
		return id, errors.New("you have no such device; /devices lists them")
	case 1:
		return id, nil
	}
	return id, errors.New("several devices begin like that; give more digits")
}

// cmdVerify shows a user's fingerprint, or remembers that it was compared.
func (m *model) cmdVerify(args string) tea.Cmd {
	words := strings.Fields(args)
	user := strings.TrimPrefix(words[0], "@")
	if len(words) == 2 && words[1] == "yes" {
		return m.ask(func(ctx context.Context) (string, error) {
			return user + " is verified; you are told when their keys change", m.client.Verify(ctx, user)
		})
	}
	if len(words) > 1 {
		m.note(kindError, "usage: /verify USER [yes]")
		return nil
	}
	return m.ask(func(ctx context.Context) (string, error) {
		digits, err := m.client.Fingerprint(ctx, user)
		if err != nil || user == m.client.User() {
			return "your fingerprint: " + digits, err
		}
		return fmt.Sprintf("fingerprint of you and %s:\n%s\nLet %s read out theirs, by voice or in person. If it is the same:  /verify %s yes",
			user, digits, user, user), nil
	})
}
