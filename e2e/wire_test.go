package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNothingReadableOnTheWire records every byte of a log-in and of file
// traffic and looks for what must not be there.
func TestNothingReadableOnTheWire(t *testing.T) {
	needFUSE(t)
	w := newWorld(t)
	w.login = "credentials=" + w.private("credentials", "username="+testUser+"\npassword="+testPassword+"\n")
	add := w.command("rpycfs", "passwd", "-f", w.users, "-a", testUser)
	add.Stdin = strings.NewReader(testPassword + "\n")
	w.run(add)
	const name, other, inside = "a-name-nobody-else-has", "a-name-made-by-the-client", "a content that nobody else has"
	must(t, os.WriteFile(filepath.Join(w.export, name), []byte(inside), 0o600))

	w.serveWith([]string{"--users=" + w.users})
	p := newProxy(t, w.port, true)
	w.mountAt(p.port, "/", w.mnt)
	secret := randomContent(t, 100_000)
	must(t, os.WriteFile(filepath.Join(w.mnt, other), secret, 0o600))
	if text, err := os.ReadFile(filepath.Join(w.mnt, name)); err != nil || string(text) != inside {
		t.Fatalf("read %q, %v", text, err)
	}
	w.umount()

	recordings := p.recorded()
	total := 0
	for _, r := range recordings {
		total += len(r)
	}
	if len(recordings) < 2 || total < len(secret) {
		t.Fatalf("%d recordings with %d bytes cannot be the whole traffic", len(recordings), total)
	}
	forbidden := map[string][]byte{
		"the password": []byte(testPassword), "a file's name": []byte(name), "a new file's name": []byte(other),
		"a file's content": []byte(inside), "the start of a written file": secret[:16], "the end of it": secret[len(secret)-16:],
		"the user's name": []byte("\x03\x00\x00\x00" + testUser),
	}
	for what, b := range verifierParts(t, w.users) {
		forbidden[what] = b
	}
	for what, b := range forbidden {
		for _, r := range recordings {
			if bytes.Contains(r, b) {
				t.Errorf("%s crossed the wire readable", what)
			}
		}
	}
}

// verifierParts returns the keys of the verifiers in a users file, as text and
// as bytes.
func verifierParts(t *testing.T, users string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(users)
	must(t, err)
	parts := make(map[string][]byte)
	for _, word := range strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune("$: \n", r) }) {
		if raw, err := base64.StdEncoding.DecodeString(word); err == nil && len(raw) == 32 {
			parts["verifier "+word] = []byte(word)
			parts["the bytes of verifier "+word] = raw
		}
	}
	if len(parts) < 4 {
		t.Fatalf("no verifier in %s:\n%s", users, text)
	}
	return parts
}

// randomContent returns n bytes that occur nowhere else.
func randomContent(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	must(t, err)
	return b
}
