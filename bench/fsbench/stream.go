package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"time"
)

// stream is no file system but one connection over which bytes pass in one
// direction: what a link, or TLS over it, can carry.
type stream struct {
	label string
	tls   *tls.Config // nil: plain TCP
}

// newTLS returns a configuration with a throwaway certificate. It is for both
// sides, which do not ask who the other is.
func newTLS() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
	}, nil
}

// connect returns both ends of a connection over k.
func (s *stream) connect(k *link) (client, server net.Conn, err error) {
	l, err := k.server.listen(net.JoinHostPort(k.host, "0"))
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = k.client.dial(l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if server, err = l.Accept(); err != nil {
		client.Close()
		return nil, nil, err
	}
	if s.tls != nil {
		client, server = tls.Client(client, s.tls), tls.Server(server, s.tls)
	}
	return client, server, nil
}

// carry passes n bytes from the server to the client, or up, to the server. It
// returns when the receiver has them all.
func (s *stream) carry(k *link, n int64, up bool) error {
	from, to, err := s.connect(k)
	if err != nil {
		return err
	}
	defer from.Close()
	defer to.Close()
	if !up {
		from, to = to, from
	}
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, mib)
		fill(buf, bigSeed, 0)
		for left := n; left > 0; left -= int64(len(buf)) {
			buf = buf[:min(left, mib)]
			if _, err := from.Write(buf); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	buf := make([]byte, mib)
	for left := n; left > 0; {
		k, err := to.Read(buf[:min(left, mib)])
		left -= int64(k)
		if err != nil {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
	}
	return <-sent
}

// cell is the row cell of a stream.
func (s *stream) cell(k *link, l load) *rowCell {
	return &rowCell{
		peer:    s.label,
		figures: []*Figure{{Link: k.name, Row: l.name, Peer: s.label, Unit: l.unit, Times: 1}},
		run: func() ([]Sample, error) {
			begin := time.Now()
			err := s.carry(k, l.bulk, l.up)
			return []Sample{{Figure: float64(l.bulk) / mib / time.Since(begin).Seconds()}}, err
		},
	}
}
