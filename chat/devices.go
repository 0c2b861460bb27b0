package chat

import (
	"context"
	"time"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/chat/e2ee"
)

// Device is a device of a user.
type Device struct {
	ID      chatproto.DeviceID
	Name    string
	Added   time.Time
	Revoked bool
	Holder  bool // holds the recovery key: may enrol and revoke devices
	This    bool // it is the calling one
}

// withKeys calls f when there is a session. ErrNoState without Config.State.
func (c *Client) withKeys(ctx context.Context, f func(*e2ee.Engine, server) error) error {
	if c.sealed == nil {
		return ErrNoState
	}
	return c.retry(ctx, func(l *link) error { return f(c.sealed.engine, server{l}) })
}

// refresh calls f with what the server now says about a user's devices.
func (c *Client) refresh(ctx context.Context, user string, f func(*e2ee.Engine) error) error {
	return c.withKeys(ctx, func(e *e2ee.Engine, s server) error {
		if err := e.Refresh(ctx, s, user); err != nil {
			return err
		}
		return f(e)
	})
}

// Devices returns the devices of a user, revoked ones included.
func (c *Client) Devices(ctx context.Context, user string) ([]Device, error) {
	var devices []Device
	err := c.refresh(ctx, user, func(e *e2ee.Engine) error {
		list, err := e.Devices(user)
		devices = make([]Device, len(list))
		for i, d := range list {
			devices[i] = Device{ID: d.ID, Name: d.Name, Added: d.Added, Revoked: !d.Revoked.IsZero(), Holder: d.Holder, This: d.This}
		}
		return err
	})
	return devices, err
}

// Fingerprint returns digits that stand for a user's keys. For another user they
// stand for the keys of both, and both see the same: who compares them over
// another way knows that nobody is between the two.
func (c *Client) Fingerprint(ctx context.Context, user string) (digits string, err error) {
	err = c.refresh(ctx, user, func(e *e2ee.Engine) (err error) {
		if user == c.user {
			digits, err = e.Fingerprint(user)
		} else {
			digits, err = e.SafetyNumber(user)
		}
		return err
	})
	return digits, err
}

// Verify notes that a user's fingerprint was compared. Should the user's keys be
// replaced, a Warning tells.
func (c *Client) Verify(ctx context.Context, user string) error {
	return c.refresh(ctx, user, func(e *e2ee.Engine) error { return e.Verify(user) })
}

// Verified reports whether a user's fingerprint was compared and is still the
// same.
func (c *Client) Verified(ctx context.Context, user string) (ok bool, err error) {
	err = c.refresh(ctx, user, func(e *e2ee.Engine) (err error) {
		ok, err = e.Verified(user)
		return err
	})
	return ok, err
}

// EnrolRequest asks for this new device to be let in. The code is to be entered
// on a device that is enrolled (Enrol). When that has been done, Enrolled says
// so and the history can be read.
func (c *Client) EnrolRequest(ctx context.Context) (code string, err error) {
	err = c.withKeys(ctx, func(e *e2ee.Engine, s server) (err error) {
		code, err = e.Request(ctx, s)
		return err
	})
	return code, err
}

// Enrolled reports whether this device may use sealed rooms: nil, or why not.
func (c *Client) Enrolled(ctx context.Context) error {
	if c.sealed == nil {
		return ErrNoState
	}
	return c.retry(ctx, func(l *link) error { return c.sealed.prepare(ctx, l) })
}

// Enrol lets a new device of this user in, by the code that it shows.
func (c *Client) Enrol(ctx context.Context, code string) (d Device, err error) {
	err = c.withKeys(ctx, func(e *e2ee.Engine, s server) error {
		device, err := e.Enrol(ctx, s, code)
		d = Device{ID: device.ID, Name: device.Name, Added: device.Added}
		return err
	})
	return d, err
}

// Revoke ends a device of this user; what is said from now on it cannot read.
// rotated tells that the recovery key has been replaced: the old print-out is
// worth nothing.
func (c *Client) Revoke(ctx context.Context, id chatproto.DeviceID) (rotated bool, err error) {
	err = c.withKeys(ctx, func(e *e2ee.Engine, s server) (err error) {
		rotated, err = e.Revoke(ctx, s, id)
		return err
	})
	return rotated, err
}

// Recovery returns the recovery key, to be printed and put away: with it a new
// device is enrolled when all others are lost.
func (c *Client) Recovery() (string, error) {
	if c.sealed == nil {
		return "", ErrNoState
	}
	return c.sealed.engine.Recovery()
}

// Recover enrols this device by the recovery key.
func (c *Client) Recover(ctx context.Context, key string) error {
	return c.withKeys(ctx, func(e *e2ee.Engine, s server) error {
		if err := e.Recover(ctx, s, key); err != nil {
			return err
		}
		select {
		case s.link.wake <- struct{}{}:
		default:
		}
		return nil
	})
}
