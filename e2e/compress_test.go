package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/rpycfs/rpycfs/internal/status"
)

// TestCompression sends text and noise both ways through a proxy that counts: text takes
// fewer bytes than it has if it is to be compressed, and noise no more. Within one machine
// nothing is compressed unless somebody says so.
func TestCompression(t *testing.T) {
	needFUSE(t)
	const size = 4 << 20
	files := map[string][]byte{"text": pattern(size), "noise": randomContent(t, size)}
	for _, mode := range []string{"auto", "off", "on"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t)
			for name, data := range files {
				must(t, os.WriteFile(filepath.Join(w.export, name), data, 0o644))
			}
			w.serve()
			p := newProxy(t, w.port, true)
			w.mountAt(p.port, "/", w.mnt, "compress="+mode)
			for name, data := range files {
				if got, err := os.ReadFile(filepath.Join(w.mnt, name)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s is read as %d bytes, %v", name, len(got), err)
				}
				must(t, os.WriteFile(filepath.Join(w.mnt, "new "+name), data, 0o644))
				if got, err := os.ReadFile(filepath.Join(w.export, "new "+name)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s is written as %d bytes, %v", name, len(got), err)
				}
			}
			var d status.Document
			must(t, json.Unmarshal([]byte(w.run(w.command("rpycfs", "status", "--json", w.mnt))), &d))
			w.umount()
			wire := 0
			for _, r := range p.recorded() {
				wire += len(r)
			}
			c := d.Session.Compression
			t.Logf("%d bytes for %d; %+v", wire, 4*size, c)
			if mode == "on" {
				const most = size - size/8 // the kernel may ask for a little in small parts
				if c.Received < most || c.ReceivedWire > c.Received/2 || c.Sent < most || c.SentWire > c.Sent/2 || c.SentPlain == 0 {
					t.Errorf("%+v", c)
				}
				if wire < 2*size || wire > 3*size {
					t.Errorf("%d bytes on the wire for %d of text and as many of noise", wire, 2*size)
				}
				return
			}
			want := status.Compression{Mode: mode, Receiving: "off", Sending: "off"}
			if mode == "auto" {
				want.Receiving, want.Sending = "off: the daemon is on this machine", "off: the daemon has not asked for it"
			}
			if c != want {
				t.Errorf("%+v, want %+v", c, want)
			}
			if wire < 4*size {
				t.Errorf("%d bytes on the wire for %d", wire, 4*size)
			}
		})
	}
}
