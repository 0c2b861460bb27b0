package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// Plain TLS in bulk: one direction, 1 MiB writes, reads into 1 MiB. The client
// sends a command, 'r' or 'w', and the number of bytes, u64.

const chunk = 1 << 20

type plainClient struct {
	c   *tls.Conn
	buf []byte
}

func dialPlain(addr string, conf *tls.Config) (*plainClient, error) {
	c, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		return nil, err
	}
	return &plainClient{c: c, buf: make([]byte, chunk)}, nil
}

func (p *plainClient) command(kind byte, n int64) error {
	_, err := p.c.Write(binary.LittleEndian.AppendUint64([]byte{kind}, uint64(n)))
	return err
}

// Read receives n bytes, a multiple of chunk.
func (p *plainClient) Read(n int64) error {
	if err := p.command('r', n); err != nil {
		return err
	}
	return drain(p.c, p.buf, n)
}

// Write sends n bytes, a multiple of chunk, and returns when the other side has
// them.
func (p *plainClient) Write(n int64) error {
	if err := p.command('w', n); err != nil {
		return err
	}
	if err := fill(p.c, p.buf, n); err != nil {
		return err
	}
	_, err := io.ReadFull(p.c, p.buf[:1])
	return err
}

// Close ends the connection.
func (p *plainClient) Close() error { return p.c.Close() }

func drain(c io.Reader, buf []byte, n int64) error {
	for n > 0 {
		k, err := c.Read(buf)
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	if n < 0 {
		return fmt.Errorf("%d bytes too many", -n)
	}
	return nil
}

func fill(c io.Writer, buf []byte, n int64) error {
	for ; n > 0; n -= int64(len(buf)) {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

func servePlain(c net.Conn) {
	buf := make([]byte, chunk)
	var cmd [9]byte
	for {
		if _, err := io.ReadFull(c, cmd[:]); err != nil {
			return
		}
		n := int64(binary.LittleEndian.Uint64(cmd[1:]))
		var err error
		if cmd[0] == 'r' {
			err = fill(c, buf, n)
		} else if err = drain(c, buf, n); err == nil {
			_, err = c.Write(buf[:1])
		}
		if err != nil {
			return
		}
	}
}
