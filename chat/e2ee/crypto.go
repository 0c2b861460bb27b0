package e2ee

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"io"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/nacl/box"

	"github.com/rpycfs/rpycfs/chat/chatproto"
	"github.com/rpycfs/rpycfs/rpc"
)

// sum is SHA-256 of the domain and the parts, each with its length in front.
func sum(domain string, parts ...[]byte) hash {
	h := sha256.New()
	writePart(h, []byte(domain))
	for _, p := range parts {
		writePart(h, p)
	}
	return hash(h.Sum(nil))
}

func writePart(w io.Writer, p []byte) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(p)))
	w.Write(n[:])
	w.Write(p)
}

// encode is for messages that are made here and within their limits.
func encode(m rpc.Message) ([]byte, error) { return rpc.Encode(nil, m) }

// toSign is what a signature is over.
func toSign(domain string, context, body []byte) []byte {
	b := make([]byte, 0, len(domain)+1+len(context)+len(body))
	b = append(b, domain...)
	b = append(b, 0)
	b = append(b, context...)
	return append(b, body...)
}

// sign returns the encoding of m, signed, and the hash of its body.
func sign(domain string, key ed25519.PrivateKey, context []byte, m rpc.Message) ([]byte, hash, error) {
	return signTwice(domain, key, nil, context, m)
}

// signTwice is sign, with old, unless nil, signing too.
func signTwice(domain string, key, old ed25519.PrivateKey, context []byte, m rpc.Message) ([]byte, hash, error) {
	body, err := encode(m)
	if err != nil {
		return nil, hash{}, err
	}
	s := signed{Body: body, max: len(body)}
	copy(s.Sig[:], ed25519.Sign(key, toSign(domain, context, body)))
	if old != nil {
		s.Old = ed25519.Sign(old, toSign(domainRotation, nil, body))
	}
	raw, err := encode(&s)
	return raw, sum(domain, body), err
}

// unwrap decodes something signed into m, without checking the signature.
func unwrap(raw []byte, max int, m rpc.Message) (*signed, error) {
	s := &signed{max: max}
	if err := rpc.Decode(raw, s); err != nil {
		return nil, err
	}
	return s, rpc.Decode(s.Body, m)
}

// by reports whether the key signed s.
func (m *signed) by(domain string, key hash, context []byte) bool {
	return ed25519.Verify(key[:], toSign(domain, context, m.Body), m.Sig[:])
}

// deriveKey is HKDF-SHA-256.
func deriveKey(secret []byte, domain string, context ...[]byte) hash {
	info := sum(domain, context...)
	k, err := hkdf.Key(sha256.New, secret, nil, domain+string(info[:]), 32)
	if err != nil { // a length that SHA-256 cannot give, which 32 is not
		panic(err)
	}
	return hash(k)
}

// mac is HMAC-SHA-256 under a key derived from the code.
func mac(code []byte, domain, user string, body []byte) hash {
	key := deriveKey(code, domain)
	h := hmac.New(sha256.New, key[:])
	writePart(h, []byte(user))
	writePart(h, body)
	return hash(h.Sum(nil))
}

// deviceKeys are the secrets of this device.
type deviceKeys struct {
	id      chatproto.DeviceID
	sign    ed25519.PrivateKey
	box     hash // secret
	signPub hash
	boxPub  hash
}

func newDeviceKeys(signSeed, boxSecret hash) *deviceKeys {
	d := &deviceKeys{sign: ed25519.NewKeyFromSeed(signSeed[:]), box: boxSecret}
	d.signPub = hash(d.sign.Public().(ed25519.PublicKey))
	d.boxPub = boxPublic(boxSecret)
	d.id = deviceID(d.signPub, d.boxPub)
	return d
}

func boxPublic(secret hash) hash {
	pub, err := curve25519.X25519(secret[:], curve25519.Basepoint)
	if err != nil { // of lengths only
		panic(err)
	}
	return hash(pub)
}

// deviceID names a device by its public keys.
func deviceID(sign, box hash) chatproto.DeviceID {
	s := sha256.Sum256(append(sign[:], box[:]...))
	return chatproto.DeviceID(s[:16])
}

// recoveryID names a recovery box as if it were a device.
func recoveryID(box hash) chatproto.DeviceID {
	s := sum(domainPseudo, box[:])
	return chatproto.DeviceID(s[:16])
}

// identity is what derives from a user's recovery seed.
type identity struct {
	sign    ed25519.PrivateKey
	pub     hash
	box     hash // secret
	boxPub  hash
	boxName chatproto.DeviceID
}

func newIdentity(seed hash) *identity {
	s := deriveKey(seed[:], domainIdentity)
	i := &identity{sign: ed25519.NewKeyFromSeed(s[:]), box: deriveKey(seed[:], domainRecovery)}
	i.pub = hash(i.sign.Public().(ed25519.PublicKey))
	i.boxPub = boxPublic(i.box)
	i.boxName = recoveryID(i.boxPub)
	return i
}

// commitment is what a header tells about its key.
func commitment(room hash, epoch uint64, key hash) hash {
	return sum(domainCommit, room[:], binary.LittleEndian.AppendUint64(nil, epoch), key[:])
}

// sealKey seals an epoch's key to one device.
func sealKey(random io.Reader, key, to hash) ([]byte, error) {
	return box.SealAnonymous(nil, key[:], (*[32]byte)(&to), random)
}

// openKey opens a sealed key; false: it is for somebody else, or damaged.
func openKey(sealed []byte, pub, secret hash) (hash, bool) {
	key, ok := box.OpenAnonymous(nil, sealed, (*[32]byte)(&pub), (*[32]byte)(&secret))
	if !ok || len(key) != 32 {
		return hash{}, false
	}
	return hash(key), true
}

// associated is what the encryption of a text is bound to.
func associated(m *sealedText, context []byte) ([]byte, error) {
	bare := *m
	bare.Text = nil
	b, err := encode(&bare)
	return toSign(domainSealed, context, b), err
}

// encrypt fills in m.Text. The nonce is drawn already.
func encrypt(m *sealedText, key hash, room hash, context []byte, plain *plainText) error {
	text, err := encode(plain)
	if err != nil {
		return err
	}
	k := deriveKey(key[:], domainText, room[:])
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		return err
	}
	ad, err := associated(m, context)
	if err == nil {
		m.Text = aead.Seal(nil, m.Nonce[:], text, ad)
	}
	return err
}

// decrypt opens m.Text.
func decrypt(m *sealedText, key hash, room hash, context []byte) (*plainText, error) {
	k := deriveKey(key[:], domainText, room[:])
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		return nil, err
	}
	ad, err := associated(m, context)
	if err != nil {
		return nil, err
	}
	text, err := aead.Open(nil, m.Nonce[:], m.Text, ad)
	if err != nil {
		return nil, err
	}
	plain := new(plainText)
	return plain, rpc.Decode(text, plain)
}

// entryHash is the hash of a log entry: of its number, id, kind, sender, target
// and body. The times are the server's word and advice, and not in it. The log's
// chain up to an entry is the hash of the chain before and the entry's hash; the
// membership chain is the same over entries that change the membership only,
// proven or not.
func entryHash(m *chatproto.Message) hash {
	seq := binary.LittleEndian.AppendUint64(nil, m.Seq)
	return sum(domainEntry, seq, m.ID[:], []byte{m.Kind}, []byte(m.From), []byte(m.Target), m.Body)
}

var base = base32.StdEncoding.WithPadding(base32.NoPadding)

// group returns base32 digits in groups of four.
func group(b []byte) string {
	s := base.EncodeToString(b)
	var out []string
	for ; len(s) > 4; s = s[4:] {
		out = append(out, s[:4])
	}
	return strings.Join(append(out, s), "-")
}

// ungroup reads what a person typed: case, spaces and dashes do not matter, and
// digits that base32 does not have stand for the letters that they look like.
func ungroup(s string) ([]byte, error) {
	s = strings.Map(func(r rune) rune {
		switch r {
		case ' ', '-', '\t', '\r', '\n':
			return -1
		case '0':
			return 'O'
		case '1':
			return 'I'
		case '8':
			return 'B'
		}
		return r
	}, strings.ToUpper(s))
	b, err := base.DecodeString(s)
	if err == nil && base.EncodeToString(b) != s {
		err = base32.CorruptInputError(len(s)) // bits beyond the last byte
	}
	return b, err
}

// printSeed returns a recovery seed as a person keeps it: 35 bytes in base32,
// the last three a checksum.
func printSeed(seed hash) string {
	check := sum(domainChecksum, seed[:])
	return group(append(seed[:], check[:3]...))
}

func parseSeed(printed string) (hash, error) {
	if len(printed) > 256 {
		return hash{}, ErrRecovery
	}
	b, err := ungroup(printed)
	if err != nil || len(b) != 35 {
		return hash{}, ErrRecovery
	}
	seed := hash(b[:32])
	if check := sum(domainChecksum, seed[:]); string(check[:3]) != string(b[32:]) {
		return hash{}, ErrRecovery
	}
	return seed, nil
}

// codeBytes holds a code: 100 bits, shown as 20 digits of base32. Its last four
// bits are zero.
const codeBytes = 13

func newCode(random io.Reader) ([]byte, string, error) {
	b := make([]byte, codeBytes)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, "", err
	}
	b[codeBytes-1] &= 0xf0
	s := base.EncodeToString(b)[:20] // the 21st digit is zero bits only
	var out []string
	for ; s != ""; s = s[4:] {
		out = append(out, s[:4])
	}
	return b, strings.Join(out, "-"), nil
}

func parseCode(code string) ([]byte, error) {
	if len(code) > 64 {
		return nil, ErrCode
	}
	// 20 digits are 12 bytes and half of one; four more zero bits fill it.
	b, err := ungroup(code + "A")
	if err != nil || len(b) != codeBytes {
		return nil, ErrCode
	}
	return b, nil
}
