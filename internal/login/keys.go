package login

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// defaultKeys are tried like ssh does, in this order.
var defaultKeys = []string{"id_ed25519", "id_ecdsa", "id_rsa"}

// keyring finds the ssh keys to log in with: the stated ones first, then those
// of the agent, then the usual files. Its agent connection stays open while the
// process lives, because signing goes through it.
type keyring struct {
	identities []string
	flag       string // Hints.Identity
	term       *Terminal

	mu     sync.Mutex
	loaded map[string]ssh.Signer // by path: a passphrase is asked for once
}

// signers returns the keys. A stated key that cannot be used is an error; of
// the others those that cannot be are passed over.
func (k *keyring) signers() ([]ssh.Signer, error) {
	var out []ssh.Signer
	held := k.agentSigners()
	for _, path := range k.identities {
		s, err := k.stated(path, held)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	out = append(out, held...)
	home, err := os.UserHomeDir()
	if err != nil || len(k.identities) > 0 {
		return out, nil
	}
	for _, name := range defaultKeys {
		text, err := os.ReadFile(filepath.Join(home, ".ssh", name))
		if err != nil {
			continue
		}
		if s, err := ssh.ParsePrivateKey(text); err == nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// stated returns a stated key, which is loaded once.
func (k *keyring) stated(path string, held []ssh.Signer) (ssh.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.loaded[path]; s != nil {
		return s, nil
	}
	s, err := k.load(path, held)
	if err != nil {
		return nil, err
	}
	if k.loaded == nil {
		k.loaded = make(map[string]ssh.Signer)
	}
	k.loaded[path] = s
	return s, nil
}

func (k *keyring) agentSigners() []ssh.Signer {
	path := os.Getenv("SSH_AUTH_SOCK")
	if path == "" {
		return nil
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil
	}
	return signers
}

// load reads a stated key. An encrypted one is taken from the agent if that
// holds it, otherwise its passphrase is asked for.
func (k *keyring) load(path string, held []ssh.Signer) (ssh.Signer, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s%s: no such file", k.flag, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s%s: %w", k.flag, path, err)
	}
	s, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		if err != nil {
			return nil, fmt.Errorf("%s%s: not a private ssh key", k.flag, path)
		}
		return s, nil
	}
	if s := sameKey(held, locked.PublicKey); s != nil {
		return s, nil
	}
	if k.term == nil {
		return nil, fmt.Errorf("%s%s: the key is encrypted; add it to the ssh agent", k.flag, path)
	}
	phrase, err := k.term.secret(fmt.Sprintf("Passphrase for %s: ", path))
	if err != nil {
		return nil, err
	}
	s, err = ssh.ParsePrivateKeyWithPassphrase(text, []byte(phrase))
	if err != nil {
		return nil, fmt.Errorf("%s%s: wrong passphrase", k.flag, path)
	}
	return s, nil
}

func sameKey(held []ssh.Signer, key ssh.PublicKey) ssh.Signer {
	if key == nil {
		return nil
	}
	for _, s := range held {
		if string(s.PublicKey().Marshal()) == string(key.Marshal()) {
			return s
		}
	}
	return nil
}
