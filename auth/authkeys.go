package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/crypto/ssh"
)

// AuthorizedKey is a public key that logs a user in.
type AuthorizedKey struct {
	Key     ssh.PublicKey
	Comment string
}

// String is the line that ParseAuthorizedKey reads.
func (k AuthorizedKey) String() string {
	s := k.Key.Type() + " " + base64.StdEncoding.EncodeToString(k.Key.Marshal())
	if k.Comment != "" {
		s += " " + k.Comment
	}
	return s
}

// ParseAuthorizedKey reads a line of an authorized_keys or .pub file: type, key
// and comment. Options before the type restrict a key in ways that do not exist
// here, so a line with options is refused rather than taken without them. Errors
// do not repeat the line: it may come from a file that is no list of keys at all.
func ParseAuthorizedKey(line string) (AuthorizedKey, error) {
	typ, rest, ok := cutSpace(strings.TrimSpace(line))
	if !ok {
		return AuthorizedKey{}, errors.New("not an ssh public key")
	}
	if _, known := keyAlgorithms[typ]; !known {
		return AuthorizedKey{}, errors.New("does not begin with a type of ssh key that is accepted; options are not supported")
	}
	blob, comment, _ := cutSpace(rest)
	b, err := decodeBase64(blob)
	if err != nil {
		return AuthorizedKey{}, errors.New("the key is not base64")
	}
	key, err := ssh.ParsePublicKey(b)
	if err != nil {
		return AuthorizedKey{}, errors.New("the key is malformed")
	}
	if key.Type() != typ {
		return AuthorizedKey{}, errors.New("the key is of another type than the line says")
	}
	if err := checkPublicKey(key); err != nil {
		return AuthorizedKey{}, err
	}
	return AuthorizedKey{Key: key, Comment: comment}, nil
}

// cutSpace splits s at its first run of spaces and tabs.
func cutSpace(s string) (before, after string, found bool) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, "", false
	}
	return s[:i], strings.Trim(s[i:], " \t"), true
}

// loadAuthorizedKeys reads an authorized_keys file. Lines that cannot be used
// are left out and reported, without their text: the file may be anybody's. A
// missing file has no keys. One that others can write is not used at all.
func loadAuthorizedKeys(path string) ([]AuthorizedKey, []error) {
	text, err := readPrivate(path, 0o022, "the keys that log in")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []error{err}
	}
	return parseAuthorizedKeys(path, text)
}

// maxAuthorizedKeys bounds the keys of one file.
const maxAuthorizedKeys = 1024

func parseAuthorizedKeys(path string, text []byte) (keys []AuthorizedKey, problems []error) {
	n := 0
	for raw := range bytes.Lines(text) {
		n++
		line := strings.TrimSpace(string(raw))
		if line == "" || line[0] == '#' {
			continue
		}
		if len(keys)+len(problems) == maxAuthorizedKeys {
			return keys, append(problems, fmt.Errorf("%s: more than %d lines; the rest is ignored", path, maxAuthorizedKeys))
		}
		k, err := ParseAuthorizedKey(line)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s:%d: ignored: %w", path, n, err))
			continue
		}
		keys = append(keys, k)
	}
	return keys, problems
}
