package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
)

// ALPN is the application protocol that both sides must agree on within TLS.
const ALPN = "rpycfs/1"

// Labels of exported keying material (RFC 8446, section 7.5; always 32 bytes and
// an empty context). Each use has its own, so that a value made for one can
// never serve another.
const (
	labelBinding = "EXPORTER-Channel-Binding" // SCRAM, RFC 9266
	labelKey     = "EXPERIMENTAL-rpycfs-key"  // log-in by ssh key
	labelProof   = "EXPERIMENTAL-rpycfs-proof"

	exporterSize = 32
)

// exporter returns keying material of the connection for one use. Both ends of
// one TLS connection get the same; nobody in the middle can have the same with
// both.
func exporter(c *tls.Conn, label string) ([]byte, error) {
	state := c.ConnectionState()
	return state.ExportKeyingMaterial(label, nil, exporterSize)
}

// proof is HMAC-SHA256(secret, label ‖ exporter ‖ purpose ‖ session ‖ epoch ‖
// client's nonce ‖ server's nonce): whoever made it holds the session's secret
// and is the other end of this very connection. All parts have fixed sizes.
func proof(secret Secret, exported []byte, hello *clientHello, serverNonce *[nonceSize]byte) [macSize]byte {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte(labelProof))
	mac.Write(exported)
	mac.Write([]byte{byte(hello.purpose)})
	mac.Write(hello.session[:])
	mac.Write(binary.LittleEndian.AppendUint32(nil, hello.epoch))
	mac.Write(hello.nonce[:])
	mac.Write(serverNonce[:])
	var sum [macSize]byte
	mac.Sum(sum[:0])
	return sum
}

// tlsConfig holds what both sides have in common.
func tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{ALPN},
		// Small first records would split every message of a fresh connection.
		DynamicRecordSizingDisabled: true,
		// A resumed TLS session would skip the check of the server's key.
		SessionTicketsDisabled: true,
	}
}

// checkALPN refuses a peer that did not ask for this protocol.
func checkALPN(c *tls.Conn) error {
	if p := c.ConnectionState().NegotiatedProtocol; p != ALPN {
		return protocolError("TLS without the protocol %s", ALPN)
	}
	return nil
}
