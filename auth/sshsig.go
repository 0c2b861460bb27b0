package auth

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/rpycfs/rpycfs/rpc"
)

// Log-in by ssh key: the client signs a statement in OpenSSH's SSHSIG format
// (PROTOCOL.sshsig), so that the signature can never pass for one made in the
// SSH protocol, nor for a signed file or commit.
const (
	sshsigMagic     = "SSHSIG"
	sshsigNamespace = "rpycfs-login@rpycfs"
	sshsigHash      = "sha512"

	minRSABits = 2048
	maxRSABits = 8192
)

// errSignature is all that is said about a signature that does not hold.
var errSignature = errors.New("the signature does not hold")

// keyAlgorithms lists the signature algorithms allowed for each type of key, the
// preferred one first. SHA-1, DSA and certificates have no place in it.
var keyAlgorithms = map[string][]string{
	ssh.KeyAlgoED25519:    {ssh.KeyAlgoED25519},
	ssh.KeyAlgoSKED25519:  {ssh.KeyAlgoSKED25519},
	ssh.KeyAlgoECDSA256:   {ssh.KeyAlgoECDSA256},
	ssh.KeyAlgoECDSA384:   {ssh.KeyAlgoECDSA384},
	ssh.KeyAlgoECDSA521:   {ssh.KeyAlgoECDSA521},
	ssh.KeyAlgoSKECDSA256: {ssh.KeyAlgoSKECDSA256},
	ssh.KeyAlgoRSA:        {ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256},
}

// checkPublicKey reports why a key may not be used, or nil.
func checkPublicKey(key ssh.PublicKey) error {
	if _, ok := keyAlgorithms[key.Type()]; !ok {
		return fmt.Errorf("ssh keys of type %q are not accepted", key.Type())
	}
	crypto, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	if k, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok {
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("RSA key of %d bits, not %d to %d", n, minRSABits, maxRSABits)
		}
	}
	return nil
}

// statement is what a log-in by key signs: who logs in, where, on which
// connection.
type statement struct {
	exporter  [exporterSize]byte // labelKey
	user      string
	serverKey []byte // as in a known_hosts line, before base64
}

// Fields lists the fields in wire order.
func (s *statement) Fields(c *rpc.Codec) {
	c.Fixed(s.exporter[:])
	c.String(&s.user, MaxUserName)
	c.Bytes(&s.serverKey, maxBody)
}

// sshsigEnvelope is the signature after the magic.
type sshsigEnvelope struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  string
	Hash      string
	Signature []byte
}

// sshsigSigned is what is signed, after the magic.
type sshsigSigned struct {
	Namespace string
	Reserved  string
	Hash      string
	Sum       []byte
}

// signedBytes returns the bytes that a signature over s covers.
func signedBytes(s *statement) ([]byte, error) {
	encoded, err := rpc.Encode(nil, s)
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum512(encoded)
	signed := ssh.Marshal(sshsigSigned{Namespace: sshsigNamespace, Hash: sshsigHash, Sum: sum[:]})
	return append([]byte(sshsigMagic), signed...), nil
}

// sign returns the SSHSIG signature of s by signer.
func sign(signer ssh.Signer, s *statement) ([]byte, error) {
	key := signer.PublicKey()
	if err := checkPublicKey(key); err != nil {
		return nil, err
	}
	data, err := signedBytes(s)
	if err != nil {
		return nil, err
	}
	signature, err := signWith(signer, data, keyAlgorithms[key.Type()][0])
	if err != nil {
		return nil, err
	}
	envelope := ssh.Marshal(sshsigEnvelope{
		Version: 1, PublicKey: key.Marshal(), Namespace: sshsigNamespace,
		Hash: sshsigHash, Signature: ssh.Marshal(signature),
	})
	return append([]byte(sshsigMagic), envelope...), nil
}

// signWith signs by a named algorithm, which for RSA differs from the key's type.
func signWith(signer ssh.Signer, data []byte, algorithm string) (*ssh.Signature, error) {
	if s, ok := signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand.Reader, data, algorithm)
	}
	if algorithm != signer.PublicKey().Type() {
		return nil, fmt.Errorf("this signer cannot sign with %s", algorithm)
	}
	return signer.Sign(rand.Reader, data)
}

// verifySignature returns the key that made blob over s. It does not say whose
// key that is.
func verifySignature(blob []byte, s *statement) (ssh.PublicKey, error) {
	envelope, err := parseSSHSIG(blob)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePublicKey(envelope.PublicKey)
	if err != nil {
		return nil, errSignature
	}
	if err := checkPublicKey(key); err != nil {
		return nil, err
	}
	var signature ssh.Signature
	if err := ssh.Unmarshal(envelope.Signature, &signature); err != nil {
		return nil, errSignature
	}
	if !algorithmAllowed(key.Type(), signature.Format) {
		return nil, fmt.Errorf("%w: algorithm %q", errSignature, signature.Format)
	}
	data, err := signedBytes(s)
	if err != nil {
		return nil, err
	}
	if key.Verify(data, &signature) != nil {
		return nil, errSignature
	}
	return key, nil
}

// parseSSHSIG takes the envelope apart and checks everything but the signature.
func parseSSHSIG(blob []byte) (*sshsigEnvelope, error) {
	if len(blob) < len(sshsigMagic) || string(blob[:len(sshsigMagic)]) != sshsigMagic {
		return nil, errSignature
	}
	var e sshsigEnvelope
	if err := ssh.Unmarshal(blob[len(sshsigMagic):], &e); err != nil {
		return nil, errSignature
	}
	if e.Version != 1 || e.Namespace != sshsigNamespace || e.Reserved != "" || e.Hash != sshsigHash {
		return nil, errSignature
	}
	return &e, nil
}

func algorithmAllowed(keyType, algorithm string) bool {
	for _, a := range keyAlgorithms[keyType] {
		if a == algorithm {
			return true
		}
	}
	return false
}

// keyID identifies a public key in a map.
type keyID [sha256.Size]byte

func idOf(key ssh.PublicKey) keyID { return sha256.Sum256(key.Marshal()) }
