package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rpycfs/rpycfs/chat"
	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/internal/clean"
)

// chatDevices is rpycfs chat devices.
type chatDevices struct {
	chatLogin
	User     string `arg:"" optional:"" help:"Whose devices to list; without it, your own."`
	Request  bool   `xor:"action" help:"On a new device: print the code to enrol it with."`
	Enrol    string `xor:"action" placeholder:"CODE" help:"On a device that is enrolled: enrol the one that shows CODE."`
	Revoke   string `xor:"action" placeholder:"ID" help:"End a device of yours, named by the first digits of its number."`
	Recovery bool   `xor:"action" help:"Print the recovery key, to be put away."`
	Recover  bool   `xor:"action" help:"Enrol this device by the recovery key, the first line of standard input."`
	JSON     bool   `name:"json" help:"Print one JSON object per line."`
}

// jsonDevice is what --json prints of a device.
type jsonDevice struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Added   string `json:"added"`
	Revoked bool   `json:"revoked"`
	This    bool   `json:"this"`
}

// Run does the one action that is asked for.
func (d *chatDevices) Run(env *environment) error {
	return d.with(env, chat.Config{NoEvents: true}, func(ctx context.Context, c *chat.Client) error {
		switch {
		case d.Request:
			code, err := c.EnrolRequest(ctx)
			return d.tell(env, err, "%s", code)
		case d.Enrol != "":
			device, err := c.Enrol(ctx, d.Enrol)
			return d.tell(env, err, "enrolled %s", device.Name)
		case d.Revoke != "":
			return d.revoke(ctx, env, c)
		case d.Recovery:
			key, err := c.Recovery()
			return d.tell(env, err, "%s", key)
		case d.Recover:
			key, err := firstLine(env.stdin)
			if err != nil {
				return errors.New("the recovery key is expected on standard input")
			}
			return d.tell(env, c.Recover(ctx, key), "this device is enrolled")
		}
		user := d.User
		if user == "" || user == c.User() {
			user = c.User()
			if err := c.Enrolled(ctx); err != nil { // makes this device's keys at first use
				env.warn("%w", err)
			}
		}
		devices, err := c.Devices(ctx, user)
		if err != nil {
			return err
		}
		return d.print(env, devices)
	})
}

// tell prints a line unless there is an error.
func (d *chatDevices) tell(env *environment, err error, format string, args ...any) error {
	if err == nil {
		_, err = fmt.Fprintln(env.stdout, clean.Line(fmt.Sprintf(format, args...)))
	}
	return err
}

func (d *chatDevices) revoke(ctx context.Context, env *environment, c *chat.Client) error {
	devices, err := c.Devices(ctx, c.User())
	if err != nil {
		return err
	}
	var found []chatproto.DeviceID
	for _, device := range devices {
		if !device.Revoked && strings.HasPrefix(device.ID.String(), strings.ToLower(d.Revoke)) {
			found = append(found, device.ID)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%d of your devices have a number that begins with %s", len(found), d.Revoke)
	}
	rotated, err := c.Revoke(ctx, found[0])
	if rotated {
		env.warn("the recovery key has changed; --recovery prints the new one")
	}
	return d.tell(env, err, "revoked %s", found[0])
}

func (d *chatDevices) print(env *environment, devices []chat.Device) error {
	p := printer{env.stdout, d.JSON}
	table := newTable(env.stdout)
	for _, device := range devices {
		if d.JSON {
			err := p.object(jsonDevice{device.ID.String(), device.Name, jsonTime(device.Added), device.Revoked, device.This})
			if err != nil {
				return err
			}
			continue
		}
		state := ""
		switch {
		case device.Revoked:
			state = "revoked"
		case device.This:
			state = "this one"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", device.ID, clean.Line(device.Name), device.Added.Local().Format("2006-01-02"), state)
	}
	return table.Flush()
}
