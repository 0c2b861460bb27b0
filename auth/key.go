package auth

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
)

// KeyFile is the name of the server's key in its state directory.
const KeyFile = "host_key"

// Key is a server's key: the identity that clients pin. A Key does not change
// and may be copied. The zero Key is not usable.
type Key struct {
	certificate tls.Certificate
	public      ssh.PublicKey
	fakes       []byte // secret that fake verifiers come from
}

// LoadOrCreateKey returns the Ed25519 key in stateDir. The first call makes it,
// and stateDir with mode 0700; several daemons that start at once end up with
// the same key. The file has OpenSSH's format, so that ssh-keygen -lf shows its
// fingerprint. A key that others can read is refused.
func LoadOrCreateKey(stateDir string) (Key, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return Key{}, err
	}
	if err := checkStateDir(stateDir); err != nil {
		return Key{}, err
	}
	path := filepath.Join(stateDir, KeyFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := createKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return Key{}, fmt.Errorf("making the server's key: %w", err)
		}
	}
	return loadKey(path)
}

// checkStateDir refuses a directory in which others could replace the key.
func checkStateDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode()&0o022 != 0 {
		return fmt.Errorf("%s: mode %04o lets others replace the server's key; chmod 700 it", dir, info.Mode().Perm())
	}
	return nil
}

func createKey(path string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "rpycfs server key")
	if err != nil {
		return err
	}
	return createAtomic(path, pem.EncodeToMemory(block))
}

func loadKey(path string) (Key, error) {
	b, err := readPrivate(path, 0o077, "the server's key")
	if err != nil {
		return Key{}, err
	}
	raw, err := ssh.ParseRawPrivateKey(b)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("%s: not an Ed25519 key", path)
	}
	der, err := selfSign(*private)
	if err != nil {
		return Key{}, err
	}
	return newKey(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: *private})
}

// LoadTLSKey returns a key with a certificate that somebody else made, in PEM
// files. Clients pin its public key, not the certificate.
func LoadTLSKey(certFile, keyFile string) (Key, error) {
	key, err := readPrivate(keyFile, 0o007, "the server's key")
	if err != nil {
		return Key{}, err
	}
	cert, err := readPrivate(certFile, 0, "")
	if err != nil {
		return Key{}, err
	}
	certificate, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return Key{}, fmt.Errorf("%s, %s: %w", certFile, keyFile, err)
	}
	return newKey(certificate)
}

func newKey(certificate tls.Certificate) (Key, error) {
	signer, ok := certificate.PrivateKey.(crypto.Signer)
	if !ok {
		return Key{}, errors.New("the server's key cannot sign")
	}
	public, err := ssh.NewPublicKey(signer.Public())
	if err != nil {
		return Key{}, err
	}
	if err := checkPublicKey(public); err != nil {
		return Key{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return Key{}, err
	}
	fakes, err := hkdf.Key(sha256.New, der, nil, "rpycfs fake verifiers", sha256.Size)
	if err != nil {
		return Key{}, err
	}
	return Key{certificate: certificate, public: public, fakes: fakes}, nil
}

// selfSign makes the certificate that carries a public key through TLS. Nothing
// in it counts but the key, so it has no end and no name, and every start makes
// a new one.
func selfSign(private ed25519.PrivateKey) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "rpycfs"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no end
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	return x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
}

// PublicKey returns the public half.
func (k Key) PublicKey() ssh.PublicKey { return k.public }

// Fingerprint returns SHA256:…, as ssh-keygen -lf prints it.
func (k Key) Fingerprint() string { return ssh.FingerprintSHA256(k.public) }

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }
