package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestDraw(t *testing.T) {
	in := "\x1b[1;38;5;31malice\x1b[0m <b>&  日本語\n\x1b[7m status \x1b[27m \x1b[2mdim\x1b[39;49m\x1b[48;2;1;2;3mx\x1b[m\n\n\x1b]0;title\n"
	var out strings.Builder
	if err := draw(strings.NewReader(in), &out, `a "title" <x>`); err != nil {
		t.Fatal(err)
	}
	svg := out.String()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
	}
	for _, want := range []string{
		`fill="#0087af" font-weight="bold">alice<`, `>&lt;b&gt;&amp;  <`, `textLength="50.4"`, `>日本語<`, `fill="#d8dbe2"/>`,
		`fill="#1c1f26">status`, `opacity="0.6">dim<`, `fill="#010203"/>`, `<title>a &#34;title&#34; &lt;x&gt;</title>`,
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("%q is not in\n%s", want, svg)
		}
	}
	if strings.ContainsRune(svg, '\x1b') {
		t.Error("an escape character is left")
	}
}

func TestPalette(t *testing.T) {
	for n, want := range map[int]string{1: "#e06c75", 16: "#000000", 31: "#0087af", 231: "#ffffff", 232: "#080808", 255: "#eeeeee"} {
		if got := palette(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
