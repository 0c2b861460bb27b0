package auth

import (
	"errors"
	"fmt"
	"time"

	"github.com/xdg-go/scram"
)

// logIn tries keys, then the password, as ssh does.
func (h *clientHandshake) logIn() (Grant, error) {
	g, tried, err := h.tryKeys()
	if err != nil || g != nil {
		if err == nil {
			err = h.settle(false)
		}
		return orZero(g), err
	}
	if h.client.Password == nil {
		return Grant{}, h.noPassword(tried)
	}
	g, err = h.password()
	if err != nil {
		return Grant{}, err
	}
	return *g, h.settle(true)
}

func orZero(g *Grant) Grant {
	if g == nil {
		return Grant{}
	}
	return *g
}

// noPassword says why nothing is left to try.
func (h *clientHandshake) noPassword(tried keysTried) error {
	switch {
	case tried.count > 0:
		return ErrRefused
	case !h.keysMatter():
		return unknownKey(h.client.Host, h.key)
	case tried.err != nil:
		return fmt.Errorf("%w: %w", ErrNoMethod, tried.err)
	}
	return ErrNoMethod
}

// keysMatter reports whether a log-in by key could be used at all: when the
// server is unknown and nobody can be asked, only the password can make it
// known, and no key is shown to it.
func (h *clientHandshake) keysMatter() bool {
	return h.known || h.client.acceptsNew() || h.client.HostKey.Ask != nil
}

// keysTried is what became of the keys.
type keysTried struct {
	count int   // refused by the server
	err   error // why others could not be tried
}

// tryKeys shows the server one key after the other. Without an error and a
// grant, none was accepted.
func (h *clientHandshake) tryKeys() (*Grant, keysTried, error) {
	var tried keysTried
	if h.client.Signers == nil || !h.keysMatter() {
		return nil, tried, nil
	}
	signers, err := h.client.Signers()
	tried.err = err
	s := &statement{user: h.client.User, serverKey: h.key.Marshal()}
	exported, err := exporter(h.tls, labelKey)
	if err != nil {
		return nil, tried, err
	}
	copy(s.exporter[:], exported)
	for _, signer := range signers {
		if tried.count == maxKeyTries {
			break
		}
		signature, err := sign(signer, s)
		if err != nil {
			tried.err = errors.Join(tried.err, err)
			continue
		}
		g, err := h.tryKey(signature)
		if err != nil || g != nil {
			return g, tried, err
		}
		tried.count++
	}
	return nil, tried, nil
}

// tryKey shows one signature. Without error and grant it was not accepted.
func (h *clientHandshake) tryKey(signature []byte) (*Grant, error) {
	if err := h.send(&keyMessage{signature}); err != nil {
		return nil, err
	}
	var g granted
	m, err := h.receive(&g, &keyRefused{})
	if err != nil || m != &g {
		return nil, err
	}
	return &g.Grant, nil
}

// password holds the SCRAM conversation. It returns a grant only if the server
// has proven that it knows the verifier.
func (h *clientHandshake) password() (*Grant, error) {
	client, err := h.client.scramClient()
	if err != nil {
		return nil, err
	}
	exported, err := exporter(h.tls, labelBinding)
	if err != nil {
		return nil, err
	}
	conversation := client.NewConversationWithChannelBinding(binding(exported))
	text, err := conversation.Step("")
	if err != nil {
		return nil, err
	}
	var reply scramMessage
	if err := h.ask(text, &reply); err != nil {
		return nil, err
	}
	if err := checkServerFirst(reply.text); err != nil {
		return nil, err
	}
	if text, err = conversation.Step(reply.text); err != nil {
		return nil, protocolError("SCRAM: %w", err)
	}
	if err := h.ask(text, &reply); err != nil {
		h.client.forget(client, err)
		return nil, err
	}
	if _, err := conversation.Step(reply.text); err != nil || !conversation.Valid() {
		return nil, protocolError("the server does not know the password")
	}
	var g granted
	if _, err := h.receive(&g); err != nil {
		return nil, err
	}
	return &g.Grant, nil
}

// ask sends one message of SCRAM and reads the next.
func (h *clientHandshake) ask(text string, reply *scramMessage) error {
	if err := h.send(&scramMessage{text}); err != nil {
		return err
	}
	_, err := h.receive(reply)
	return err
}

// scramClient returns what holds the password, and asks for that the first time.
// If that took long, ErrAgain: the server will have given up.
func (c *Client) scramClient() (*scram.Client, error) {
	c.mu.Lock()
	client := c.scram
	c.mu.Unlock()
	if client != nil {
		return client, nil
	}
	start := time.Now()
	password, err := c.Password()
	if err != nil {
		return nil, fmt.Errorf("password: %w", err)
	}
	if client, err = scramClient(c.User, password); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.scram = client
	c.mu.Unlock()
	if time.Since(start) > patience {
		return nil, ErrAgain
	}
	return client, nil
}

// forget drops a password that the server refused.
func (c *Client) forget(client *scram.Client, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, ErrRefused) && c.scram == client {
		c.scram = nil
	}
}
