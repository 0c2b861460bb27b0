// Package e2ee makes sealed rooms: what is said in them is encrypted from device
// to device and signed, and the server, which carries and keeps it all, is
// trusted with nothing but delivery. It sees who, when and how much; never what.
//
// The package has no connection and no files of its own: an Engine asks a Server
// and keeps its state in a KV. The byte tables of all messages stand at their
// types (signed, deviceList, statement, header, sealedText, request, answer).
//
// # Who is who
//
//	recovery seed R ──HKDF──► identity key (Ed25519), signs lists
//	                └─HKDF──► recovery box (X25519)
//	identity ──signs──► list 1 ◄──hash── list 2 ◄──hash── list 3 …
//	list: devices, each an Ed25519 key that signs and an X25519 key to seal to
//
// The first device of a user draws R and publishes list 1. R printed is the
// recovery key; only devices that hold R can sign lists. Others pin the identity
// when they first need it, and from then on take only lists that go on from the
// pinned one: versions rise by one, hashes chain, devices are neither forgotten
// nor changed, revoked ones never come back. Every change is a notice (Changes).
// When a device that holds R is revoked, R and the identity are replaced by a
// list that the old and the new identity sign.
//
// A device is enrolled by a code of 100 bits that a person carries from the new
// device to a holder of R, or by the recovery key:
//
//	new: draws code ──letter {keys, MAC under code}──► holder, who is given code
//	holder: signs list n+1, seals all known room keys to the new device
//	holder ──letter {identity, n+1, hash of list, MAC under code}──► new
//
// Thus neither can the server put its keys into the list, nor its own identity
// before the new device.
//
// # Who is in a room
//
// The room's identity is a random number in the signed statement that makes it.
// Each invitation, removal and departure is a statement by a device of a member,
// which comes as the body of the log entry. It counts only in its place: its
// actor is a member there and has seen what it is based on, and it counts once.
// Who is not proven to be a member by such a chain gets no key, and is warned of.
// An entry that puts somebody out is obeyed even if it is not proven, with a
// warning: sealing to fewer is the safe side.
//
//	create(alice) ─► invite(alice→bob) ─► invite(bob→carol) ─► remove(alice→bob)
//
// # Keys
//
//	header 1 ◄──hash── header 2 ◄──hash── header 3     signed by the maker's device
//	   │
//	   ├─ hash of the membership as the maker saw it, and the recipients:
//	   │  users, with version and hash of their lists
//	   └─ commitment to the key, which is sealed to each device and recovery box
//
// Each sender makes sure that the newest header names exactly the present devices
// of the proven members, and makes a new epoch otherwise: so there is a new key
// after somebody or some device came, or went. Receivers refuse a header with a
// recipient who is not proven, with an old list, or out of place. A header made
// without knowledge of a change that came first in the log is passed over, and
// its maker makes another.
//
// # Messages
//
// A message names epoch, device, a counter, and the chain hash of the log as its
// sender knew it; device's signature and encryption cover these and the room, the
// sender and the client-made id. Receivers refuse what is forged, damaged,
// replayed, or sealed under another epoch than the one in force at that place of
// the log, and warn of counters that are missing and of a chain that differs from
// theirs: the server has dropped, reordered or changed something, or shows
// different logs to different people. The counter is on disk before it is used; a
// message that is sealed again keeps it, one that is given up is accounted for in
// the next.
//
// # When entries are missing
//
// Retention may drop the beginning of a log, or what was said while a device was
// away. Members are then taken from the header of the next message: without a
// question only if its maker was known as a member, otherwise on trust at first
// sight; either way the person is told what was taken on trust.
//
// # What remains open
//
// Identities are trusted on first use until they are compared (Verify). The
// server can withhold everything, and what it withholds from all to the end is
// noticed by nobody. It can hold back a revocation: until its user's client says
// otherwise, others go on sealing to the revoked device. A member can tell
// anybody the room's key and texts. There is no forward secrecy within an epoch:
// who takes a device, or R, reads all epochs that it has. Lengths are not hidden.
// Times are the server's word.
//
// # Concurrency
//
// Work is done as optimistic transactions on the KV: what was read is compared
// again when the result is written, and the work repeated if it has changed. No
// lock is held while the server is asked. mu guards two tables of hints.
package e2ee
