package e2ee

import (
	"context"

	"github.com/rpycfs/rpycfs/chat/chatproto"
)

type deviceKeys struct{ id chatproto.DeviceID }

func printable(s string) string                    { return s }
func (e *Engine) loadDevice() (*deviceKeys, error) { return &deviceKeys{}, nil }

// Ready makes sure that this device may act for its user: it publishes the first list of a user who has none, takes
// the answer to a pending Request, and otherwise returns ErrNotEnrolled or ErrRevoked. Call it after log-in and when mail comes.
func (e *Engine) Ready(ctx context.Context, srv Server) error { return ErrNotEnrolled }

// Refresh fetches a user's list after the server told of a new one (EventDevices); see Changes.
func (e *Engine) Refresh(ctx context.Context, srv Server, user string) error { return ErrUnknownUser }

// Changes returns the notices since the last call, once.
func (e *Engine) Changes() ([]Change, error) { return nil, nil }

// Receive takes an entry of a sealed room. Call it for every entry, in order; entries that are missing before it are fetched by itself.
// The same entry again gives the same result. An error means that nothing was decided: try again.
func (e *Engine) Receive(ctx context.Context, srv Server, m *chatproto.Message) (Opened, error) {
	return Opened{}, ErrUnproven
}

// ReceiveAll is Receive for a page of entries of one room, made durable at once.
func (e *Engine) ReceiveAll(ctx context.Context, srv Server, page []chatproto.Message) ([]Opened, error) {
	return nil, ErrUnproven
}

// Seal returns the body of a KindSealed entry and the epoch for SayReq. kind is KindText, KindAction or KindTopic. Call it again with the
// same id after ErrStaleKey.
func (e *Engine) Seal(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID, kind uint8, text string) (epoch uint64, body []byte, err error) {
	return 0, nil, ErrUnproven
}

// Said tells that the server has acknowledged the message (id may be forgotten).
func (e *Engine) Said(room chatproto.RoomID, id chatproto.ID) error { return nil }

// Abandon tells that a message which was sealed will never be said.
func (e *Engine) Abandon(room chatproto.RoomID, id chatproto.ID) error { return nil }

// Name returns the room's name as its maker signed it; to be compared with what the server calls it.
func (e *Engine) Name(room chatproto.RoomID) (string, error) { return "", ErrUnproven }

// Members returns the proven members of the room, sorted.
func (e *Engine) Members(room chatproto.RoomID) ([]string, error) { return nil, ErrUnproven }

// CreateProof, InviteProof, RemoveProof, LeaveProof: the Proof field of the request with that id. Retry a request with the same proof.
func (e *Engine) CreateProof(ctx context.Context, srv Server, id chatproto.ID, name string) ([]byte, error) {
	return nil, ErrUnproven
}
func (e *Engine) InviteProof(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID, user string) ([]byte, error) {
	return nil, ErrUnproven
}
func (e *Engine) RemoveProof(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID, user string) ([]byte, error) {
	return nil, ErrUnproven
}
func (e *Engine) LeaveProof(ctx context.Context, srv Server, room chatproto.RoomID, id chatproto.ID) ([]byte, error) {
	return nil, ErrUnproven
}

// Devices returns a user's devices as last known.
func (e *Engine) Devices(user string) ([]Device, error) { return nil, ErrUnknownUser }

// Fingerprint returns 60 digits that stand for a user's identity key.
func (e *Engine) Fingerprint(user string) (string, error) { return "", ErrUnknownUser }

// SafetyNumber returns 60 digits that this user and another one see alike (for /verify).
func (e *Engine) SafetyNumber(user string) (string, error) { return "", ErrUnknownUser }

// Verify marks a user's identity as compared. Verified tells whether it is, and still the same.
func (e *Engine) Verify(user string) error           { return ErrUnknownUser }
func (e *Engine) Verified(user string) (bool, error) { return false, ErrUnknownUser }

// Request draws a code for this new device and posts its letter. Enrol takes the code on a holder's device.
func (e *Engine) Request(ctx context.Context, srv Server) (code string, err error) {
	return "", ErrCode
}
func (e *Engine) Enrol(ctx context.Context, srv Server, code string) (Device, error) {
	return Device{}, ErrCode
}

// Revoke ends a device of this user and gives all rooms new keys. rotated: the recovery key has been replaced, print the new one.
func (e *Engine) Revoke(ctx context.Context, srv Server, device chatproto.DeviceID) (rotated bool, err error) {
	return false, ErrNotHolder
}

// Recovery returns the recovery key for printing; Recover enrols this device with it.
func (e *Engine) Recovery() (string, error)                                     { return "", ErrNotHolder }
func (e *Engine) Recover(ctx context.Context, srv Server, printed string) error { return ErrRecovery }
