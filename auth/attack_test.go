package auth

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// guessPassword speaks SCRAM as a client would, with a proof that fits no
// password. It returns kinds and sizes of all that the server sent, and its
// challenge.
func guessPassword(t *testing.T, s *Server, user string) (sequence []string, challenge string) {
	t.Helper()
	c, done := rawClient(t, s)
	ask := func(m message) []byte {
		k, body := roundTrip(t, c, m)
		sequence = append(sequence, fmt.Sprintf("%d:%d", k, len(body)))
		return body
	}
	ask(&clientHello{version: Version, purpose: NewSession, user: user})
	const gs2 = "p=tls-exporter,,"
	body := ask(&scramMessage{gs2 + "n=" + user + ",r=" + strings.Repeat("n", scramNonce)})
	var m scramMessage
	if err := decodeBody(body, &m); err != nil {
		t.Fatal(err)
	}
	nonce, _, _ := strings.Cut(m.text, ",")
	bound := base64.StdEncoding.EncodeToString(append([]byte(gs2), mustExport(t, c)...))
	ask(&scramMessage{"c=" + bound + "," + nonce + ",p=" + base64.StdEncoding.EncodeToString(make([]byte, hashSize))})
	<-done
	rest, _ := io.ReadAll(c)
	return append(sequence, fmt.Sprintf("rest:%d", len(rest))), m.text
}

// TestUnknownUserLooksLikeWrongPassword compares what a stranger sees of a user
// who exists, one without a password and two who do not exist.
func TestUnknownUserLooksLikeWrongPassword(t *testing.T) {
	var all [][]string
	salts := map[string]string{}
	for _, user := range []string{"alice", "bobby", "nobdy", "alice", "bobby", "nobdy", "../.."} {
		s, sessions := testServer(t)
		if err := s.Users.Add(User{Name: "bobby"}); err != nil {
			t.Fatal(err)
		}
		sequence, challenge := guessPassword(t, s, user)
		all = append(all, sequence)
		salt := strings.Split(challenge, ",")[1]
		if old, ok := salts[user]; ok && old != salt {
			t.Errorf("%s: salt was %s, is %s", user, old, salt)
		}
		salts[user] = salt
		if !strings.HasSuffix(challenge, fmt.Sprintf(",i=%d", MinIterations)) {
			t.Errorf("%s: challenge %s", user, challenge)
		}
		if sessions.count() != 0 {
			t.Fatalf("%s is in", user)
		}
	}
	for _, sequence := range all {
		if !slices.Equal(sequence, all[0]) {
			t.Errorf("server said %v to one and %v to another", all[0], sequence)
		}
	}
	if len(salts) != 4 || salts["bobby"] == salts["nobdy"] {
		t.Errorf("salts %v", salts)
	}
	a, b := fakeVerifier([]byte("one server"), "x"), fakeVerifier([]byte("another"), "x")
	if string(a.salt) == string(b.salt) {
		t.Error("two servers have one salt for an unknown user")
	}
}

// TestManInTheMiddle relays everything between the client and the real server
// over two TLS connections. Neither the password nor a key gets it in.
func TestManInTheMiddle(t *testing.T) {
	for name, change := range map[string]func(*Client){
		"password": func(*Client) {},
		"key":      func(c *Client) { c.Password, c.scram, c.Signers = nil, nil, signers(testSigner(1)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, sessions := testServer(t)
			toServer, done := rawClient(t, s)
			client, relay := net.Pipe()
			relayed := make(chan struct{})
			go func() {
				defer close(relayed)
				config := tlsConfig()
				config.Certificates = []tls.Certificate{testKey(t, 66).certificate}
				toClient := tls.Server(relay, config)
				if toClient.Handshake() != nil {
					return
				}
				back := make(chan struct{})
				go func() { defer close(back); io.Copy(toClient, toServer); relay.Close() }()
				io.Copy(toServer, toClient)
				toServer.NetConn().Close()
				<-back
			}()
			c := testClient(t)
			c.Fingerprint, c.HostKey.Mode = "", HostKeyAcceptNew // the victim checks nothing
			change(c)
			if _, _, err := c.Login(context.Background(), client); !errors.Is(err, ErrRefused) {
				t.Errorf("client: %v", err)
			}
			<-relayed
			if r := <-done; r.err == nil || sessions.count() != 0 {
				t.Errorf("the man in the middle is in: %v", r.err)
			}
		})
	}
}

// TestServerChallenges: what a hostile server may not ask for. The client ends
// the conversation without a proof.
func TestServerChallenges(t *testing.T) {
	salt := base64.StdEncoding.EncodeToString(make([]byte, saltSize))
	for _, suffix := range []string{
		"s=" + salt + ",i=4096", "s=" + salt + ",i=599999", "s=" + salt + ",i=10000001",
		"s=" + salt + ",i=-600000", "s=" + salt + ",i=0600000", "s=" + salt + ",i=600000,x=1",
		"s=,i=600000", "s=QQ==,i=600000", "s=" + salt, "i=600000,s=" + salt,
		"s=" + base64.StdEncoding.EncodeToString(make([]byte, 65)) + ",i=600000",
	} {
		sawProof := false
		nc, done := rawServer(t, testKey(t, 100), func(c *tls.Conn, _ *clientHello) error {
			if err := send(c, &serverHello{version: Version}); err != nil {
				return err
			}
			var first scramMessage
			if _, err := receive(c, &first); err != nil {
				return err
			}
			_, nonce, _ := strings.Cut(first.text, ",r=")
			if err := send(c, &scramMessage{"r=" + nonce + strings.Repeat("n", scramNonce) + "," + suffix}); err != nil {
				return err
			}
			_, _, err := readFrame(c)
			sawProof = err == nil
			return nil
		})
		_, _, err := testClient(t).Login(context.Background(), nc)
		if serverErr := <-done; serverErr != nil {
			t.Fatal(serverErr)
		}
		if sawProof || !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: proof sent %v, %v", suffix, sawProof, err)
		}
	}
}

// TestServerWithoutVerifier: a server that lets everybody in without knowing the
// verifier is found out, at first contact too.
func TestServerWithoutVerifier(t *testing.T) {
	fake := fakeVerifier(nil, "alice")
	for name, final := range map[string][]message{
		"wrong signature": {&scramMessage{"v=" + base64.StdEncoding.EncodeToString(make([]byte, 32))}, &granted{}},
		"no signature":    {&granted{}},
		"an error":        {&scramMessage{"e=other-error"}, &granted{}},
	} {
		nc, done := rawServer(t, testKey(t, 100), func(c *tls.Conn, _ *clientHello) error {
			var m scramMessage
			if err := send(c, &serverHello{version: Version}); err != nil {
				return err
			}
			if _, err := receive(c, &m); err != nil {
				return err
			}
			conversation, err := serverScram(mustExport(t, c), fake)
			if err != nil {
				return err
			}
			challenge, err := conversation.Step(m.text)
			if err != nil {
				return err
			}
			if err := send(c, &scramMessage{challenge}); err != nil {
				return err
			}
			if _, err := receive(c, &m); err != nil {
				return err
			}
			_ = send(c, final...) // the client may have gone in the middle
			return nil
		})
		c := testClient(t)
		c.Fingerprint, c.KnownHosts = "", t.TempDir()+"/known_hosts"
		if _, _, err := c.Login(context.Background(), nc); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := checkKnownHosts(c.KnownHosts, c.Host, testKey(t, 100).PublicKey()); !errors.Is(err, ErrHostKeyUnknown) {
			t.Errorf("%s: pinned: %v", name, err)
		}
	}
}

func mustExport(t *testing.T, c *tls.Conn) []byte {
	b, err := exporter(c, labelBinding)
	if err != nil {
		t.Error(err)
	}
	return b
}

// TestReplay sends what was right on one connection again on another.
func TestReplay(t *testing.T) {
	s, sessions := testServer(t)
	first, done := rawClient(t, s)
	rawHello(t, first, "alice")
	exported, err := exporter(first, labelKey)
	if err != nil {
		t.Fatal(err)
	}
	st := &statement{user: "alice", serverKey: s.Key.public.Marshal(), exporter: [32]byte(exported)}
	signature, err := sign(testSigner(1), st)
	if err != nil {
		t.Fatal(err)
	}
	k, body := roundTrip(t, first, &keyMessage{signature})
	if k != kindGranted {
		t.Fatalf("answer %d", k)
	}
	<-done
	var g granted
	if err := decodeBody(body, &g); err != nil {
		t.Fatal(err)
	}

	again, done := rawClient(t, s)
	rawHello(t, again, "alice")
	if k, _ := roundTrip(t, again, &keyMessage{signature}); k != kindKeyRefused {
		t.Errorf("a replayed signature was answered with %d", k)
	}
	again.NetConn().Close()
	<-done

	// A proof of belonging, made for one connection.
	hello := &clientHello{version: Version, purpose: Resume, session: g.Session, epoch: 2}
	var mac [macSize]byte
	for i, want := range []kind{kindResumed, kindRefused} {
		hello.epoch = uint32(2 + i)
		c, done := rawClient(t, s)
		var peer serverHello
		if err := send(c, hello); err != nil {
			t.Fatal(err)
		}
		if _, err := receive(c, &peer); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			exported, err := exporter(c, labelProof)
			if err != nil {
				t.Fatal(err)
			}
			mac = proof(g.Secret, exported, hello, &peer.nonce)
		}
		if k, _ := roundTrip(t, c, &proofMessage{mac}); k != want {
			t.Errorf("proof %d was answered with %d", i, k)
		}
		<-done
	}
	if sessions.count() != 1 {
		t.Errorf("%d sessions", sessions.count())
	}
}

// TestClientFirstForms: only SCRAM-SHA-256-PLUS for the user of the hello.
func TestClientFirstForms(t *testing.T) {
	nonce := strings.Repeat("n", scramNonce)
	if err := checkClientFirst("p=tls-exporter,,n=alice,r="+nonce, "alice"); err != nil {
		t.Error(err)
	}
	for _, text := range []string{
		"", "n,,n=alice,r=" + nonce, "y,,n=alice,r=" + nonce, "p=tls-unique,,n=alice,r=" + nonce,
		"p=tls-server-end-point,,n=alice,r=" + nonce, "p=tls-exporter,a=root,n=alice,r=" + nonce,
		"p=tls-exporter,,n=bob,r=" + nonce, "p=tls-exporter,,m=x,n=alice,r=" + nonce,
		"p=tls-exporter,,n=alice,r=" + nonce + ",x=y", "p=tls-exporter,,n=alice,r=short",
	} {
		if err := checkClientFirst(text, "alice"); !errors.Is(err, ErrProtocol) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSlowDown measures, on a clock of its own, what each further guess costs,
// and that neither another user nor another address pays for it.
func TestSlowDown(t *testing.T) {
	aliceVerifier() // outside the bubble: it takes long
	rightScram()
	synctest.Test(t, func(t *testing.T) {
		s, _ := testServer(t)
		s.Deadline = time.Minute
		guess := func(user string) time.Duration {
			start := time.Now()
			guessPassword(t, s, user)
			return time.Since(start)
		}
		ms := time.Millisecond
		for i, want := range []time.Duration{0, 250 * ms, 500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 8000 * ms, 8000 * ms} {
			if got := guess("alice"); got != want {
				t.Errorf("guess %d took %v, not %v", i+1, got, want)
			}
		}
		if got := guess("bob"); got != 0 {
			t.Errorf("bob waited %v for alice's failures", got)
		}
		start := time.Now()
		mustLogin(t, s, testClient(t))
		if got := time.Since(start); got != 8*time.Second {
			t.Errorf("the right password took %v", got)
		}
		start = time.Now()
		mustLogin(t, s, testClient(t))
		if got := time.Since(start); got != 0 {
			t.Errorf("after a success it took %v", got)
		}
	})
}

// TestThrottle checks addresses, forgetting and the bound on memory.
func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g throttle
		for i := range 40 {
			g.guess("1.2.3.4", fmt.Sprint("user", i))
		}
		if d := g.guess("1.2.3.4", "fresh"); d != shortDelay {
			t.Errorf("41st guess from one address waits %v", d)
		}
		if d := g.guess("1.2.3.5", "fresh"); d != 0 {
			t.Errorf("another address waits %v", d)
		}
		time.Sleep(forgetAfter + time.Second)
		if d := g.guess("1.2.3.4", "fresh"); d != 0 || len(g.entries) != 2 {
			t.Errorf("not forgotten: %v, %d entries", d, len(g.entries))
		}
		for i := range 2 * maxCharged {
			g.guess(fmt.Sprint("address", i), "x")
		}
		if len(g.entries) != maxCharged || g.recent.Len() != maxCharged {
			t.Errorf("%d entries", len(g.entries))
		}
	})
}

func TestAddressKey(t *testing.T) {
	for _, tt := range []struct{ a, b string }{
		{"1.2.3.4:1", "1.2.3.4:2"}, {"[::ffff:1.2.3.4]:1", "1.2.3.4:2"}, {"[2001:db8::1]:1", "[2001:db8::ffff:2]:9"},
	} {
		if addressKey(mustTCP(t, tt.a)) != addressKey(mustTCP(t, tt.b)) {
			t.Errorf("%s and %s differ", tt.a, tt.b)
		}
	}
	if addressKey(mustTCP(t, "[2001:db8::1]:1")) == addressKey(mustTCP(t, "[2001:db8:0:1::1]:1")) {
		t.Error("two IPv6 networks are one")
	}
	if addressKey(nil) == "" || addressKey(&net.UnixAddr{Net: "unix"}) != "unix" {
		t.Error("connections without addresses")
	}
}

func mustTCP(t *testing.T, s string) net.Addr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestLimits: places, bytes and time before authentication.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := testServer(t)
		s.Deadline, s.Places, s.PlacesPerAddress, s.HandshakeBytes = 0, 3, 2, 4000
		_, done1 := serve(t, s)
		synctest.Wait()
		_, done2 := serve(t, s)
		synctest.Wait()
		silent3, done3 := serve(t, s)
		if r := <-done1; !errors.Is(r.err, ErrBusy) {
			t.Errorf("the first of three from one address: %v", r.err)
		}
		silent3.Close()
		<-done3
		mustLogin(t, s, testClient(t)) // its place is free again
		start := time.Now()
		if r := <-done2; !errors.Is(r.err, context.DeadlineExceeded) && !isTimeout(r.err) {
			t.Errorf("silent client: %v", r.err)
		}
		if d := time.Since(start); d != DefaultDeadline {
			t.Errorf("silent client had %v", d)
		}
		c, done := rawClient(t, s)
		rawHello(t, c, "alice")
		for {
			if err := send(c, &keyMessage{make([]byte, 1500)}); err != nil {
				break
			}
			if k, _, err := readFrame(c); err != nil || k != kindKeyRefused {
				break
			}
		}
		if r := <-done; r.err == nil || !strings.Contains(r.err.Error(), "more than it may") {
			t.Errorf("talkative client: %v", r.err)
		}
		if s.places.total != 0 || len(s.places.byAddress) != 0 {
			t.Errorf("places: %d, %v", s.places.total, s.places.byAddress)
		}
	})
}

// TestPlaces: who comes gets a place from whoever has the most, the oldest first.
func TestPlaces(t *testing.T) {
	var p places
	var evicted []string
	take := func(address, name string) *place {
		return p.take(address, 5, 3, func() { evicted = append(evicted, name) })
	}
	take("b", "b1")
	for _, name := range []string{"a1", "a2", "a3", "a4"} { // a4 takes a1's
		take("a", name)
	}
	b2 := take("b", "b2")
	take("c", "c1") // takes a2's
	take("d", "d1") // takes b1's, the oldest of the two addresses that have two
	if want := []string{"a1", "a2", "b1"}; !slices.Equal(evicted, want) {
		t.Errorf("evicted %v, want %v", evicted, want)
	}
	p.leave(b2)
	p.leave(b2)
	if p.total != 4 || len(p.byAddress) != 3 {
		t.Errorf("%d places, %v", p.total, p.byAddress)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// TestALPN: TLS without our protocol's name is not for us.
func TestALPN(t *testing.T) {
	s, _ := testServer(t)
	nc, done := serve(t, s)
	defer nc.Close()
	c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; !errors.Is(r.err, ErrProtocol) {
		t.Error(r.err)
	}
	nc, done = serve(t, s)
	defer nc.Close()
	c = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{ALPN}})
	if err := c.Handshake(); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
	if r := <-done; r.err == nil {
		t.Error("TLS 1.2 was accepted")
	}
}
