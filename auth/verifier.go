package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
)

// Iterations of PBKDF2 in a verifier. New verifiers have the least; a client
// refuses what lies outside, since fewer make guessing cheap and more make the
// server's hello an attack on the client.
const (
	MinIterations = 600_000
	MaxIterations = 10_000_000

	saltSize    = 16
	maxSaltSize = 64
	hashSize    = sha256.Size

	// MaxPassword bounds a password, in bytes.
	MaxPassword = 1024
)

// verifier is what the server keeps of a password: enough to check it, not
// enough to log in with.
type verifier struct {
	iterations int
	salt       []byte
	storedKey  []byte
	serverKey  []byte
}

const verifierScheme = "SCRAM-SHA-256"

// newVerifier derives the verifier of a password with a fresh salt.
func newVerifier(password string) (*verifier, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt)
	client, err := scramClient("", password)
	if err != nil {
		return nil, err
	}
	c, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: MinIterations})
	if err != nil {
		return nil, err
	}
	return &verifier{iterations: MinIterations, salt: salt, storedKey: c.StoredKey, serverKey: c.ServerKey}, nil
}

// scramClient prepares a password by SASLprep, or takes it as it is where
// SASLprep knows no answer (emoji, for one). Both sides do the same.
func scramClient(user, password string) (*scram.Client, error) {
	if password == "" {
		return nil, errors.New("the password is empty")
	}
	if len(password) > MaxPassword {
		return nil, fmt.Errorf("the password is longer than %d bytes", MaxPassword)
	}
	c, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		c, err = scram.SHA256.NewClientUnprepped(user, password, "")
	}
	if err != nil {
		return nil, err
	}
	return c.WithMinIterations(MinIterations), nil
}

// parseVerifier reads SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey.
func parseVerifier(s string) (*verifier, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 3 || parts[0] != verifierScheme {
		return nil, errors.New("verifier is not of the form " + verifierScheme + "$iterations:salt$key:key")
	}
	iterations, salt, ok1 := strings.Cut(parts[1], ":")
	stored, server, ok2 := strings.Cut(parts[2], ":")
	if !ok1 || !ok2 {
		return nil, errors.New("verifier lacks a colon")
	}
	v := &verifier{}
	var err error
	if v.iterations, err = parseIterations(iterations); err != nil {
		return nil, err
	}
	if v.salt, err = decodeBase64(salt); err != nil || len(v.salt) < saltSize || len(v.salt) > maxSaltSize {
		return nil, fmt.Errorf("verifier needs a salt of %d to %d bytes", saltSize, maxSaltSize)
	}
	for _, k := range []struct {
		dst *[]byte
		s   string
	}{{&v.storedKey, stored}, {&v.serverKey, server}} {
		if *k.dst, err = decodeBase64(k.s); err != nil || len(*k.dst) != hashSize {
			return nil, fmt.Errorf("verifier needs keys of %d bytes", hashSize)
		}
	}
	return v, nil
}

// decodeBase64 accepts the one encoding of each value; the library's strictest
// mode still skips line breaks.
func decodeBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && base64.StdEncoding.EncodedLen(len(b)) != len(s) {
		err = errors.New("line break in base64")
	}
	return b, err
}

// parseIterations reads a count in its one decimal form.
func parseIterations(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("bad iteration count %.20q", s)
	}
	if n < MinIterations || n > MaxIterations {
		return 0, fmt.Errorf("%w: %d iterations, not %d to %d", ErrWeakServer, n, MinIterations, MaxIterations)
	}
	return n, nil
}

// String is the form that parseVerifier reads.
func (v *verifier) String() string {
	e := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s$%d:%s$%s:%s", verifierScheme, v.iterations, e(v.salt), e(v.storedKey), e(v.serverKey))
}

// fakeVerifier stands in for a user who does not exist or has no password. It is
// always the same for a name, as a real one is, and fits no password that anyone
// can find.
func fakeVerifier(secret []byte, name string) *verifier {
	derive := func(what string) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(what))
		mac.Write([]byte{0})
		mac.Write([]byte(name))
		return mac.Sum(nil)
	}
	return &verifier{
		iterations: MinIterations,
		salt:       derive("salt")[:saltSize],
		storedKey:  derive("stored key"),
		serverKey:  derive("server key"),
	}
}

// credentials is the form that the SCRAM library takes.
func (v *verifier) credentials() scram.StoredCredentials {
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(v.salt), Iters: v.iterations},
		StoredKey:  v.storedKey,
		ServerKey:  v.serverKey,
	}
}
