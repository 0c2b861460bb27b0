package auth

import (
	"strings"

	"github.com/xdg-go/scram"
)

// A SCRAM conversation (RFC 5802, 7677) has four messages:
//
//	client  p=tls-exporter,,n=USER,r=NONCE
//	server  r=NONCE+MORE,s=SALT,i=ITERATIONS
//	client  c=BINDING,r=NONCE+MORE,p=PROOF
//	server  v=SIGNATURE
//
// The only mechanism is SCRAM-SHA-256-PLUS bound to the TLS exporter.

// scramNonce is the length of each side's half of the nonce as the library makes
// it: 24 random bytes in base64.
const scramNonce = 32

// serverScram starts the server's side for one user, whose verifier may be a
// fake one.
func serverScram(exported []byte, v *verifier) (*scram.ServerConversation, error) {
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) {
		return v.credentials(), nil
	})
	if err != nil {
		return nil, err
	}
	return server.NewConversationWithChannelBindingRequired(binding(exported)), nil
}

func binding(exported []byte) scram.ChannelBinding {
	return scram.ChannelBinding{Type: scram.ChannelBindingTLSExporter, Data: exported}
}

// checkClientFirst holds the client's first message to the one form that our
// client sends: the library takes extensions, another identity to act as, and
// nonces of any length.
func checkClientFirst(text, user string) error {
	nonce, ok := strings.CutPrefix(text, "p=tls-exporter,,n="+user+",r=")
	if !ok || len(nonce) < scramNonce || !printableNonce(nonce) {
		return protocolError("SCRAM's first message is not that of SCRAM-SHA-256-PLUS for this user")
	}
	return nil
}

// checkServerFirst holds the server's first message to its form and limits. It
// runs before any hashing, so that a hostile server can choose neither cheap nor
// endless work.
func checkServerFirst(text string) error {
	parts := strings.Split(text, ",")
	if len(parts) != 3 {
		return protocolError("SCRAM's challenge has %d parts", len(parts))
	}
	nonce, okNonce := strings.CutPrefix(parts[0], "r=")
	salt, okSalt := strings.CutPrefix(parts[1], "s=")
	iterations, okIter := strings.CutPrefix(parts[2], "i=")
	if !okNonce || !okSalt || !okIter || len(nonce) < 2*scramNonce || !printableNonce(nonce) {
		return protocolError("SCRAM's challenge has another form")
	}
	if b, err := decodeBase64(salt); err != nil || len(b) < saltSize || len(b) > maxSaltSize {
		return protocolError("SCRAM's salt is not %d to %d bytes", saltSize, maxSaltSize)
	}
	if _, err := parseIterations(iterations); err != nil {
		return protocolError("SCRAM's challenge: %w", err)
	}
	return nil
}

// printableNonce reports whether s is what RFC 5802 allows in a nonce.
func printableNonce(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ',' {
			return false
		}
	}
	return true
}
