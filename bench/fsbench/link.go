package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/rpycfs/rpycfs/bench/internal/peers"
)

// Addresses of the two ends of an emulated link.
const (
	clientHost = "10.77.0.1"
	serverHost = "10.77.0.2"
)

const linkLoopback = "loopback"

// link is what lies between client and server: plain loopback, or two network
// namespaces with a TUN device each, and a process that passes packets on with a
// given rate and delay. TCP is the kernel's, with all that belongs to it.
type link struct {
	name           string
	mbit           float64 // per second and direction; 0: plain loopback
	rtt            time.Duration
	host           string // of the server
	client, server *place
	proc           *peers.Process // that passes packets on
}

// parseLink reads "loopback" or "200mbit/30ms".
func parseLink(text string) (*link, error) {
	k := &link{name: text, host: "127.0.0.1"}
	if text == linkLoopback {
		return k, nil
	}
	rate, rtt, _ := strings.Cut(text, "/")
	digits, ok := strings.CutSuffix(rate, "mbit")
	var err, err2 error
	k.mbit, err = strconv.ParseFloat(digits, 64)
	k.rtt, err2 = time.ParseDuration(rtt)
	if !ok || err != nil || err2 != nil || k.mbit <= 0 || k.rtt < 0 {
		return nil, fmt.Errorf("link %q: want %s or, for example, 200mbit/30ms", text, linkLoopback)
	}
	k.host = serverHost
	return k, nil
}

func (k *link) emulated() bool { return k.mbit > 0 }

// open sets the link up.
func (k *link) open() (err error) {
	if !k.emulated() {
		return nil
	}
	if k.client, err = newPlace(); err != nil {
		return err
	}
	if k.server, err = newPlace(); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	// Whoever passes packets on and waits for a processor is a wrong link.
	s := peers.Spawn{Files: []*os.File{k.client.ns, k.server.ns}}
	k.proc, err = s.Start("chrt", "--fifo", "1", exe, rolePass, fmt.Sprint(k.mbit), k.rtt.String())
	if err != nil {
		return err
	}
	for until := time.Now().Add(10 * time.Second); !k.client.reached(k.host); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			k.proc.Kill()
			return fmt.Errorf("link %s does not come up: %v\n%s", k.name, k.proc.Err, &k.proc.Out)
		}
	}
	return nil
}

func (k *link) close() {
	if k.proc != nil {
		k.proc.Kill()
	}
}

// passPackets is the process of a link: descriptors 3 and 4 are the namespaces of
// client and server.
func passPackets(args []string) error {
	mbit, err := strconv.ParseFloat(args[0], 64)
	if err != nil {
		return err
	}
	rtt, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	client, err := openTUN(3, clientHost)
	if err != nil {
		return err
	}
	server, err := openTUN(4, serverHost)
	if err != nil {
		return err
	}
	failed := make(chan error)
	for _, d := range []*direction{newDirection(client, server, mbit, rtt), newDirection(server, client, mbit, rtt)} {
		go func() { failed <- d.receive() }()
		go func() { failed <- d.deliver() }()
	}
	return <-failed
}

// openTUN makes a TUN device with an address in the namespace of descriptor fd.
func openTUN(fd uintptr, host string) (dev tun.Device, err error) {
	p, err := enterPlace(os.NewFile(fd, "namespace"))
	if err != nil {
		return nil, err
	}
	const name = "bench0"
	p.in(func() {
		if dev, err = tun.CreateTUN(name, mtu); err != nil {
			return
		}
		if err = ip("addr", "add", host+"/24", "dev", name); err == nil {
			err = ip("link", "set", name, "up", "txqueuelen", "20000")
		}
	})
	if err == nil {
		go func() {
			for range dev.Events() {
			}
		}()
	}
	return dev, err
}

const (
	mtu      = 1500
	room     = 16      // before a packet, for the device's own header
	wire     = 38      // of Ethernet: header, checksum, preamble, gap
	batch    = 128     // packets that the device gives or takes at once
	gathered = 1 << 16 // bytes of packets that the device may join
)

// direction is one direction of a link: a transmitter of a given rate with a
// queue before it that drops what finds no room, and a wire behind it.
type direction struct {
	in, out tun.Device
	perByte time.Duration // to transmit
	delay   time.Duration
	queue   time.Duration // how far the transmitter may lag behind
	free    time.Time     // when the transmitter has sent all; of receive

	mu     sync.Mutex
	some   sync.Cond
	flying []packet // in the order they will arrive
}

type packet struct {
	due   time.Time
	bytes []byte
}

func newDirection(in, out tun.Device, mbit float64, rtt time.Duration) *direction {
	perByte := time.Duration(8e3 / mbit)
	d := &direction{in: in, out: out, perByte: perByte, delay: rtt / 2, queue: max(2*rtt, perByte<<20)}
	d.some.L = &d.mu
	return d
}

// receive takes packets from the device and decides when each arrives.
func (d *direction) receive() error {
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, room+gathered)
	}
	for {
		n, err := d.in.Read(bufs, sizes, room)
		if err != nil {
			return err
		}
		now := time.Now()
		d.mu.Lock()
		for i := range n {
			if d.free.Before(now) {
				d.free = now
			}
			if d.free.Sub(now) > d.queue {
				continue
			}
			d.free = d.free.Add(d.perByte * time.Duration(sizes[i]+wire))
			d.flying = append(d.flying, packet{d.free.Add(d.delay), append([]byte(nil), bufs[i][room:room+sizes[i]]...)})
		}
		d.mu.Unlock()
		d.some.Signal()
	}
}

// deliver hands over what has arrived.
func (d *direction) deliver() error {
	bufs := make([][]byte, batch)
	for i := range bufs {
		bufs[i] = make([]byte, room+gathered)
	}
	for {
		d.mu.Lock()
		for len(d.flying) == 0 {
			d.some.Wait()
		}
		first, now, n := d.flying[0].due, time.Now(), 0
		for n < batch && n < len(d.flying) && !d.flying[n].due.After(now) {
			bufs[n] = append(bufs[n][:room], d.flying[n].bytes...)
			d.flying[n].bytes = nil
			n++
		}
		d.flying = d.flying[n:]
		d.mu.Unlock()
		if n == 0 {
			// The runtime's timers wake up to a millisecond late.
			pause := unix.NsecToTimespec(int64(first.Sub(now)))
			unix.Nanosleep(&pause, nil)
			continue
		}
		d.out.Write(bufs[:n], room) // what it does not take is lost, as on a wire
	}
}
