package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain is the process of a link if a test starts it.
func TestMain(m *testing.M) {
	actRole()
	os.Exit(m.Run())
}

// TestTargets wants every target to be of a row, a link and a peer that there are.
func TestTargets(t *testing.T) {
	l := &loads{tree: &tree{}}
	rows := map[string]bool{}
	for _, load := range l.all(l) {
		rows[load.name], rows[load.again] = true, true
	}
	for _, target := range targets() {
		if target.Measure != ofMemory && !rows[target.Row] {
			t.Errorf("a target is of %q, which is no row", target.Row)
		}
		if target.Must <= 0 {
			t.Errorf("%s: %v", target.Row, target.Must)
		}
	}
}

// report returns one in which rpycfs takes half as long as sshfs tuned, which takes
// half as long as sshfs, and as long as ext4.
func report() *Report {
	one := func(link, peer string, seconds float64) *Figure {
		return &Figure{Link: link, Row: rowGrep, Peer: peer, Unit: unitTime, Times: 1,
			Rounds: []Sample{{Figure: seconds, Client: Usage{CPU: 1, Peak: 20}, Server: Usage{CPU: 1, Peak: 300}}}}
	}
	r := &Report{}
	for _, link := range []string{linkLoopback, "200mbit/30ms"} {
		r.Figures = append(r.Figures, one(link, peerLocal, 1), one(link, peerSSHFS, 4), one(link, peerTuned, 2), one(link, peerRpycfs, 1))
	}
	r.Figures[3].Rounds[0].Calls = &Calls{map[string]int64{"LOOKUP": 3}, map[string]int64{"read": 1, "lookup": 2, "open": 1}}
	r.Figures[5].Times = 20
	r.Figures[6].Rounds, r.Figures[6].Error = nil, "it broke"
	return r
}

// TestReport writes a report, reads it again, and looks at the verdicts and tables.
func TestReport(t *testing.T) {
	name := filepath.Join(t.TempDir(), "report.json")
	if err := report().write(name); err != nil {
		t.Fatal(err)
	}
	r, err := readReport(name)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]Verdict{}
	for _, v := range r.verdicts() {
		found[v.Measure+" "+v.Link] = v
	}
	for of, want := range map[string]struct {
		base       string
		found      float64
		met, about bool
	}{
		"speed loopback":            {peerTuned, 2, true, false},
		"speed 200mbit/30ms":        {peerSSHFS, 4, false, true},
		"MiB per side 200mbit/30ms": {"", 300, false, false},
	} {
		if v := found[of]; v.Base != want.base || v.Found != want.found || v.Met != want.met || v.About != want.about {
			t.Errorf("%s: %+v, want %+v", of, v, want)
		}
	}
	var text strings.Builder
	r.markdown(&text)
	for _, part := range []string{
		"| grep -r, cold | s | 1.0 | 4.0 | 2.0 | 1.0 |", "| grep -r, cold | s | 1.0 | ~4.0 | failed | 1.0 |",
		"| 1.00 + 1.00; 20 + 300 |", "| grep -r, cold | 3 | 4 | lookup 2, open 1, read 1 |", "| ≥ 40 | ~4 | **missed** |",
	} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("%q is missing in\n%s", part, &text)
		}
	}
	if r.met() || r.failed() == nil {
		t.Error("nothing is missed or nothing has failed")
	}
	if err := r.plot(filepath.Join(t.TempDir(), "report.svg")); err != nil {
		t.Error(err)
	}
}

func TestParseLink(t *testing.T) {
	for text, ok := range map[string]bool{
		"loopback": true, "200mbit/30ms": true, "2.5mbit/1s": true,
		"": false, "200mbit": false, "200/30ms": false, "-1mbit/30ms": false, "mbit/30ms": false,
	} {
		if k, err := parseLink(text); (err == nil) != ok || err == nil && k.emulated() != (text != linkLoopback) {
			t.Errorf("%q: %v, %v", text, k, err)
		}
	}
}

// TestOpenLink passes bytes over an emulated link, which takes at least its round
// trip. It needs root and a TUN device.
func TestOpenLink(t *testing.T) {
	k, err := parseLink("100mbit/40ms")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.open(); err != nil {
		t.Fatal(err)
	}
	defer k.close()
	for _, up := range []bool{true, false} {
		begin := time.Now()
		if err := (&stream{label: peerTCP}).carry(k, mib, up); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took < 80*time.Millisecond+mib*8*time.Second/1e8 {
			t.Errorf("a connection and 1 MiB take %s", took)
		}
	}
}
