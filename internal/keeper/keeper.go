// Package keeper has a process that holds descriptors for another one, which may be
// killed and started again. The process does nothing with them: it takes them in, gives
// them out, and lets them go, by a socket that only its own user can reach.
//
// Messages are packets of 9 bytes: what, and a key of the other process's choice.
//
//	'K' key, with a descriptor   keep it (to the keeper), or here it is (from it)
//	'D' key                      let it go, or (from it) it has been
//	'A' 0                        give me all; answered by as many 'K', then 'E' with the
//	                             nanoseconds since 1970 at which the process before was
//	                             gone, 0 if there was none
//
// One process is served at a time, in the order in which they connect. What one has sent
// before it died is taken in before the next is served, because it has arrived.
package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	opKeep = 'K'
	opDrop = 'D'
	opAll  = 'A'
	opEnd  = 'E'

	packetSize = 9
)

// lookEvery is how often a keeper that serves nobody looks whether it can be found.
const lookEvery = 2 * time.Second

// Run is the keeper: it serves the listener until it has had nobody to serve for a while,
// nothing to keep, or its socket is gone.
func Run(l *net.UnixListener, patience time.Duration) error {
	held := make(map[uint64]int)
	var gone uint64 // when the last process was seen to have ended
	end := time.Now().Add(patience)
	for {
		if err := l.SetDeadline(time.Now().Add(min(lookEvery, time.Until(end)))); err != nil {
			return err
		}
		conn, err := l.AcceptUnix()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if _, err := os.Lstat(l.Addr().String()); err != nil || !time.Now().Before(end) {
				return nil // descriptors are closed with the process
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := checkPeer(conn); err == nil {
			serve(conn, held, gone)
			gone = uint64(time.Now().UnixNano())
		}
		conn.Close()
		if len(held) == 0 {
			return nil
		}
		end = time.Now().Add(patience)
	}
}

// serve does what one process asks for until it is gone. before is when the last one was.
func serve(conn *net.UnixConn, held map[uint64]int, before uint64) {
	for {
		op, key, fd, err := receive(conn)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // it died before it heard all; what it had sent is still there
		}
		if err != nil {
			return
		}
		switch {
		case op == opKeep && fd >= 0:
			drop(held, key)
			held[key] = fd
			fd = -1
		case op == opDrop:
			drop(held, key)
			_ = send(conn, opDrop, key, -1) // who is dead may have sent more
		case op == opAll:
			for key, fd := range held {
				if send(conn, opKeep, key, fd) != nil {
					return
				}
			}
			if send(conn, opEnd, before, -1) != nil {
				return
			}
		}
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func drop(held map[uint64]int, key uint64) {
	if fd, ok := held[key]; ok {
		unix.Close(fd)
		delete(held, key)
	}
}

// send sends a packet; fd is -1 for none.
func send(conn *net.UnixConn, op byte, key uint64, fd int) error {
	var b [packetSize]byte
	b[0] = op
	binary.LittleEndian.PutUint64(b[1:], key)
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_, _, err := conn.WriteMsgUnix(b[:], oob, nil)
	return err
}

// receive takes a packet; fd is -1 for none.
func receive(conn *net.UnixConn) (op byte, key uint64, fd int, err error) {
	var b [packetSize]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(b[:], oob)
	switch {
	case err != nil:
		return 0, 0, -1, err
	case n == 0:
		return 0, 0, -1, io.EOF
	case n != packetSize:
		return 0, 0, -1, fmt.Errorf("a packet of %d bytes", n)
	}
	fd = -1
	if oobn > 0 {
		if fd, err = rights(oob[:oobn]); err != nil {
			return 0, 0, -1, err
		}
	}
	return b[0], binary.LittleEndian.Uint64(b[1:]), fd, nil
}

// rights returns the one descriptor of a control message.
func rights(oob []byte) (int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("no descriptor came")
}

// checkPeer makes sure that the other side is of the same user.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return cerr
	}
	if err == nil && int(cred.Uid) != os.Geteuid() {
		err = fmt.Errorf("the process at the other end is of user %d, this one of %d", cred.Uid, os.Geteuid())
	}
	return err
}
