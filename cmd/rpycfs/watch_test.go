package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/watch"
)

// TestWatchLines: what is printed of an event, for people and for programs, holds
// nothing that a terminal obeys.
func TestWatchLines(t *testing.T) {
	const has, old, dir = fsproto.WatchHasPath, fsproto.WatchHasOld, fsproto.WatchIsDir
	for _, tt := range []struct {
		ev   fsproto.WatchEvent
		text string // behind the time
		json string // behind the time
	}{
		{fsproto.WatchEvent{Kind: fsproto.WatchCreate, Flags: has, Path: "a/b", By: "bob"},
			"create      a/b (by bob)", `"by":"client","user":"bob","path":"a/b"}`},
		{fsproto.WatchEvent{Kind: fsproto.WatchAttrib, Flags: has | dir},
			"attrib      . (on the server)", `"by":"server","dir":true,"path":""}`},
		{fsproto.WatchEvent{Kind: fsproto.WatchRename, Flags: old | dir, OldPath: "x"},
			"rename      x/ -> (elsewhere) (on the server)", `"by":"server","dir":true,"from":"x"}`},
		{fsproto.WatchEvent{Kind: fsproto.WatchModify, Flags: has, Path: "\xff\x1b[2J\n", By: "a\x1bb"},
			"modify      �␛[2J↵ (by a␛b)", `"by":"client","user":"a\u001bb","path":"�\u001b[2J\n","path_base64":"/xtbMkoK"}`},
		{fsproto.WatchEvent{Kind: fsproto.WatchOverflow},
			"overflow    events were lost here; look at the directory anew", `}`},
		{fsproto.WatchEvent{Kind: fsproto.WatchEnd, Error: 2},
			"end         the directory was removed or moved away", `"error":"the directory was removed or moved away","errno":2}`},
		{fsproto.WatchEvent{Kind: fsproto.WatchModify, Flags: has | fsproto.WatchHasAttr, Path: "f", Attr: fsproto.Attr{Mode: fsproto.ModeRegular | 0o4711, Size: 7}},
			"modify      f (on the server)", `"by":"server","path":"f","new":{"type":"file","mode":"4711","size":7,"uid":0,"gid":0,"nlink":0,"ino":0,"mtime":"1970-01-01T00:00:00Z","ctime":"1970-01-01T00:00:00Z"}}`},
	} {
		ev := &watch.Event{Seq: 3, WatchEvent: tt.ev}
		text := watchText(ev)
		if strings.Count(text, "\n") != 1 || strings.Contains(text, "\x1b") || !utf8.ValidString(text) || !strings.HasSuffix(text, tt.text+"\n") {
			t.Errorf("text %q, want %q", text, tt.text)
		}
		var b strings.Builder
		p := watchPrinter{printer{out: &b, json: true}}
		if err := p.event(ev); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(b.String(), `{"seq":3,"kind":"`+watchKinds[tt.ev.Kind]+`","time":"1970-01-01T00:00:00Z"`) ||
			!strings.HasSuffix(b.String(), tt.json+"\n") || !json.Valid([]byte(b.String())) || strings.Contains(b.String(), "\x1b") {
			t.Errorf("JSON %s, want %s", b.String(), tt.json)
		}
	}
}

func TestWatchUsage(t *testing.T) {
	for _, args := range [][]string{{"watch"}, {"watch", "host"}, {"watch", "host:/../x"}, {"watch", "--port=0", "host:/"}, {"watch", "--port=70000", "host:/"}} {
		if code, stdout, stderr := rpycfs("", args...); code != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: %d, %q, %q", args, code, stdout, stderr)
		}
	}
}
