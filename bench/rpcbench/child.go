package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"time"
)

// The server side is this program again, in a process of its own. It prints one
// line of JSON, answers each line "stats" on its standard input with another,
// and ends when that input does.

const (
	serverEnv  = "RPCBENCH_SERVER"  // set: be the server
	profileEnv = "RPCBENCH_PROFILE" // file for the server's CPU profile
	lifetime   = 20 * time.Minute   // after which the server ends whatever happens
)

// hello is what the server tells the client first.
type hello struct {
	Cert                     []byte
	Mux, GRPC, Plain, Rpycfs string
}

// stats counts allocations since the process began.
type stats struct{ Mallocs, Bytes uint64 }

func readStats() stats {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return stats{m.Mallocs, m.TotalAlloc}
}

func (s stats) since(old stats) stats { return stats{s.Mallocs - old.Mallocs, s.Bytes - old.Bytes} }

// runServer is the server process.
func runServer(in io.Reader, out io.Writer) error {
	time.AfterFunc(lifetime, func() { os.Exit(3) })
	if name := os.Getenv(profileEnv); name != "" {
		stop, err := profile(name)
		if err != nil {
			return err
		}
		defer stop()
	}
	h, err := listenAll()
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	if err := enc.Encode(h); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if err := enc.Encode(readStats()); err != nil {
			return err
		}
	}
	return nil
}

func profile(name string) (stop func(), err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

func listenAll() (*hello, error) {
	conf, cert, err := serverTLS()
	if err != nil {
		return nil, err
	}
	h := &hello{Cert: cert}
	for _, s := range []struct {
		addr  *string
		serve func(net.Listener)
	}{
		{&h.Mux, func(l net.Listener) { acceptAll(tls.NewListener(l, conf), serveMux) }},
		{&h.Plain, func(l net.Listener) { acceptAll(tls.NewListener(l, conf), servePlain) }},
		{&h.GRPC, func(l net.Listener) { serveGRPC(l, conf) }},
		{&h.Rpycfs, func(l net.Listener) { acceptAll(l, rpycfsServer(conf)) }},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*s.addr = l.Addr().String()
		go s.serve(l)
	}
	return h, nil
}

// server is the running server process.
type server struct {
	hello
	cmd *exec.Cmd
	in  io.WriteCloser
	dec *json.Decoder
}

// startServer starts the server process; its CPU profile goes to the file
// named, unless the name is empty.
func startServer(profile string) (*server, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serverEnv+"=1", profileEnv+"="+profile)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, in: in, dec: json.NewDecoder(out)}
	if err := s.dec.Decode(&s.hello); err != nil {
		s.Close()
		return nil, fmt.Errorf("server process: %w", err)
	}
	return s, nil
}

// Stats asks for the server's allocations.
func (s *server) Stats() (st stats, err error) {
	if _, err = io.WriteString(s.in, "stats\n"); err == nil {
		err = s.dec.Decode(&st)
	}
	return st, err
}

// Close ends the server process and waits for it.
func (s *server) Close() error {
	s.in.Close()
	return s.cmd.Wait()
}
