package status

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rpycfs/rpycfs/internal/mounts"
	"github.com/rpycfs/rpycfs/mount"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var log = slog.New(slog.DiscardHandler)

// own is a mount of this user, with a device number that no mount has.
func own(dev string) mounts.Mount {
	return mounts.Mount{Dev: dev, Point: "/none", Owner: uint32(os.Geteuid())}
}

// runtimeDir gives an ordinary user a directory of its own for sockets.
func runtimeDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", dir)
}

func document() *Document {
	return &Document{
		Version: Version, MountPoint: "/mnt/a b", Source: "host:/\x1b[2J", Device: "0:53", Server: "host:1", User: "alice", PID: 4711,
		Program: "0.1.0", Mounted: time.Unix(1e9, 5).UTC(),
		Session: Session{State: Reconnecting, Since: time.Unix(1e9, 0).UTC(), Epoch: 7, LastError: "line\nline", NextTry: time.Unix(2e9, 0).UTC()},
		Status: mount.Status{
			ReadOnly: true, RunAs: "account", IDMap: "name", Nodes: 5,
			Requests: map[string]mount.RequestStatus{"lookup": {Count: 5, Here: 2}},
			Calls:    map[string]mount.CallStatus{"lookup": {Count: 3, Errors: 1, InFlight: 4, Nanoseconds: 99}},
			Served:   map[string]mount.ServedStatus{},
		},
	}
}

// TestAsk: what is told arrives, for many at once, beside clients that say nothing,
// say something, or do not read.
func TestAsk(t *testing.T) {
	runtimeDir(t)
	m := own("998:1")
	s, err := Serve(m.Dev, document, log)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		c, err := mounts.Dial(context.Background(), m)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			io.WriteString(c, "please\n")
		}
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			a, err := Ask(context.Background(), m)
			if err != nil {
				t.Error(err)
				return
			}
			if !reflect.DeepEqual(&a.Document, document()) {
				t.Errorf("%+v", a.Document)
			}
			if !bytes.HasPrefix(a.Raw, []byte(`{"version":1,"mount_point":"/mnt/a b",`)) || bytes.Contains(a.Raw, []byte("\n")) {
				t.Errorf("%s", a.Raw)
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Ask(context.Background(), m); !errors.Is(err, ErrSilent) {
		t.Errorf("after the end: %v", err)
	}
}

// TestAskSilent asks processes that do not answer as they should.
func TestAskSilent(t *testing.T) {
	runtimeDir(t)
	for name, tt := range map[string]struct {
		say  string
		hang bool
		want string
	}{
		"stopped":  {"", true, "within 2s"},
		"halfway":  {`{"version":1,`, true, "within 2s"},
		"nothing":  {"", false, "unexpected end"},
		"garbage":  {"hello", false, "invalid character"},
		"more":     {`{"version":1} {}`, false, "after top-level"},
		"future":   {`{"version":2}`, false, "version 2"},
		"other":    {`{"version":1,"pid":"x"}`, false, "cannot unmarshal"},
		"too long": {`{"version":1,"source":"` + strings.Repeat("x", maxAnswer) + `"}`, false, "unexpected end"},
	} {
		t.Run(name, func(t *testing.T) {
			m := own("998:2")
			lis, err := mounts.Listen(m.Dev)
			if err != nil {
				t.Fatal(err)
			}
			defer lis.Close()
			asked := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				c, err := lis.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				io.WriteString(c, tt.say)
				if tt.hang {
					<-asked
				}
			})
			start := time.Now()
			a, err := Ask(context.Background(), m)
			close(asked)
			wg.Wait()
			if !errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "/none: ") {
				t.Errorf("%+v, %v", a, err)
			}
			if took := time.Since(start); tt.hang != (took >= Limit) || took > Limit+time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestAnswerIsBounded: a client that does not read what does not fit delays others
// for a moment only.
func TestAnswerIsBounded(t *testing.T) {
	runtimeDir(t)
	m := own("998:3")
	d := document()
	d.Source = strings.Repeat("x", maxAnswer-10_000) // more than a socket's buffer
	s, err := Serve(m.Dev, func() *Document { return d }, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var c net.Conn
	if c, err = mounts.Dial(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a, err := Ask(context.Background(), m); err != nil || a.Source != d.Source {
		t.Error(err)
	}
}
