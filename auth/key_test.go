package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Made with ssh-keygen -t ed25519, ssh-keygen -lf and, over the statement of
// TestSSHSIGVector, ssh-keygen -Y sign -n rpycfs-login@rpycfs.
const (
	vectorKey         = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIODqO05p9IuyeU+mSR3wnzCGk1Je+MRm5XOKBTFLlJro vector"
	vectorFingerprint = "SHA256:KGdPTbN7cJDNjF0KI/s1zMKcuwliaVIx1NRt0kpN3xU"
	vectorSignature   = "U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg4Oo7Tmn0i7J5T6ZJHfCfMIaTUl" +
		"74xGblc4oFMUuUmugAAAATcnB5Y2ZzLWxvZ2luQHJweWNmcwAAAAAAAAAGc2hhNTEyAAAA" +
		"UwAAAAtzc2gtZWQyNTUxOQAAAEBHE90ZRwgpqoPJc3IgmmPulg+dLeUxCX2BqDEi9gX+t4" +
		"pz001sJhMl9xQgP8TGwQwtH28GdPGLDo5r5OMbLZkC"
)

func vectorStatement(t testing.TB) *statement {
	s := &statement{user: "alice", serverKey: testKey(t, 100).public.Marshal()}
	for i := range s.exporter {
		s.exporter[i] = byte(i)
	}
	return s
}

// TestSSHSIGVector checks a signature that OpenSSH made, and that nothing about
// it can be changed.
func TestSSHSIGVector(t *testing.T) {
	blob, err := base64.StdEncoding.DecodeString(vectorSignature)
	if err != nil {
		t.Fatal(err)
	}
	key, err := verifySignature(blob, vectorStatement(t))
	if err != nil {
		t.Fatal(err)
	}
	if f := ssh.FingerprintSHA256(key); f != vectorFingerprint {
		t.Errorf("signed by %s", f)
	}
	for i := range blob {
		changed := append([]byte(nil), blob...)
		changed[i] ^= 1
		if key, err := verifySignature(changed, vectorStatement(t)); err == nil {
			t.Errorf("byte %d changed: accepted as %s", i, ssh.FingerprintSHA256(key))
		}
		if _, err := verifySignature(blob[:i], vectorStatement(t)); err == nil {
			t.Errorf("accepted when cut at %d", i)
		}
	}
	if _, err := verifySignature(append(blob, 0), vectorStatement(t)); err == nil {
		t.Error("accepted with a byte more")
	}
	for name, change := range map[string]func(*statement){
		"user":       func(s *statement) { s.user = "bob" },
		"server":     func(s *statement) { s.serverKey = testKey(t, 101).public.Marshal() },
		"connection": func(s *statement) { s.exporter[31]++ },
	} {
		s := vectorStatement(t)
		change(s)
		if _, err := verifySignature(blob, s); err == nil {
			t.Errorf("holds for another %s", name)
		}
	}
}

// TestSSHSIGAlgorithms: SHA-1 and what is not on the list are refused although
// the signature is right.
func TestSSHSIGAlgorithms(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	s := vectorStatement(t)
	data, err := signedBytes(s)
	if err != nil {
		t.Fatal(err)
	}
	for algorithm, want := range map[string]bool{ssh.KeyAlgoRSASHA512: true, ssh.KeyAlgoRSASHA256: true, ssh.KeyAlgoRSA: false} {
		signature, err := signWith(signer, data, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		blob := append([]byte(sshsigMagic), ssh.Marshal(sshsigEnvelope{
			Version: 1, PublicKey: signer.PublicKey().Marshal(), Namespace: sshsigNamespace,
			Hash: sshsigHash, Signature: ssh.Marshal(signature),
		})...)
		if _, err := verifySignature(blob, s); (err == nil) != want {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

// TestLoadOrCreateKey: made once, also by several at a time; private.
func TestLoadOrCreateKey(t *testing.T) {
	state := filepath.Join(t.TempDir(), "a", "state")
	prints := make([]string, 8)
	var all sync.WaitGroup
	for i := range prints {
		all.Go(func() {
			k, err := LoadOrCreateKey(state)
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = k.Fingerprint()
		})
	}
	all.Wait()
	for _, p := range prints {
		if p != prints[0] || !strings.HasPrefix(p, "SHA256:") {
			t.Errorf("fingerprints %v", prints)
			break
		}
	}
	path := filepath.Join(state, KeyFile)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(state); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	for _, tt := range []struct {
		path      string
		mode, was os.FileMode
	}{{path, 0o640, 0o600}, {path, 0o604, 0o600}, {state, 0o770, 0o700}} {
		if err := os.Chmod(tt.path, tt.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreateKey(state); err == nil || !strings.Contains(err.Error(), "chmod") {
			t.Errorf("mode %o of %s: %v", tt.mode, tt.path, err)
		}
		if err := os.Chmod(tt.path, tt.was); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(state); err == nil {
		t.Error("rubbish was taken for a key, or replaced")
	}
}

// TestLoadTLSKey logs in at servers with other kinds of keys.
func TestLoadTLSKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"rsa": rsaKey, "p384": p384} {
		cert, private := writePEM(t, key)
		k, err := LoadTLSKey(cert, private)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := testServer(t)
		s.Key = k
		c := testClient(t)
		c.Fingerprint, c.KnownHosts = "", filepath.Join(t.TempDir(), "known_hosts")
		mustLogin(t, s, c)
		c.server = nil
		mustLogin(t, s, c) // from the file
		c.server, s.Key = nil, testKey(t, 100)
		if _, _, _, err, _ := login(t, s, c); err == nil {
			t.Errorf("%s: another key was accepted", name)
		}
		if err := os.Chmod(private, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadTLSKey(cert, private); err == nil {
			t.Error("a key that all can read was accepted")
		}
	}
}

// writePEM writes a key and a certificate of it that has expired.
func writePEM(t *testing.T, key any) (cert, private string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	return tempFile(t, "cert.pem", certificatePEM(t, template, key)),
		tempFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func certificatePEM(t *testing.T, template *x509.Certificate, key any) string {
	t.Helper()
	var public any
	switch k := key.(type) {
	case *rsa.PrivateKey:
		public = &k.PublicKey
	case *ecdsa.PrivateKey:
		public = &k.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestTLSSettings: what the seam depends on.
func TestTLSSettings(t *testing.T) {
	c := tlsConfig()
	if c.MinVersion != tls.VersionTLS13 || !c.DynamicRecordSizingDisabled || !c.SessionTicketsDisabled {
		t.Errorf("%+v", c)
	}
	s, _ := testServer(t)
	client, server, _ := mustLogin(t, s, testClient(t))
	for _, conn := range []*Conn{client, server} {
		if state := conn.ConnectionState(); state.Version != tls.VersionTLS13 || state.DidResume {
			t.Errorf("version %x, resumed %v", state.Version, state.DidResume)
		}
	}
}

func TestVerifierForm(t *testing.T) {
	v := aliceVerifier()
	again, err := parseVerifier(v.String())
	if err != nil || again.String() != v.String() {
		t.Fatalf("%v, %v", again, err)
	}
	good := v.String()
	for _, bad := range []string{
		"", "x", strings.Replace(good, "256", "1", 1), strings.Replace(good, "600000", "599999", 1),
		strings.Replace(good, "600000", "0600000", 1), strings.Replace(good, "600000", "10000001", 1),
		good + "$", good[:len(good)-4], strings.Replace(good, ":", "", 1), good + "\n",
	} {
		if _, err := parseVerifier(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
