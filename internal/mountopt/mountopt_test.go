package mountopt

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
)

func TestParseSource(t *testing.T) {
	for in, want := range map[string]Source{
		"host:/":                  {Host: "host"},
		"host:":                   {Host: "host"},
		"host:/a/b":               {Host: "host", Path: []string{"a", "b"}},
		"host:rel/path":           {Host: "host", Path: []string{"rel", "path"}},
		"host://a//./b/":          {Host: "host", Path: []string{"a", "b"}},
		"me@host:/x":              {User: "me", Host: "host", Path: []string{"x"}},
		"me@corp@host:/x":         {User: "me@corp", Host: "host", Path: []string{"x"}},
		"host:/a@b":               {Host: "host", Path: []string{"a@b"}},
		"host:/a:b":               {Host: "host", Path: []string{"a:b"}},
		"[::1]:/x":                {Host: "::1", Path: []string{"x"}},
		"me@[fe80::1%eth0]:/":     {User: "me", Host: "fe80::1%eth0"},
		"192.0.2.1:/..a/.../b..c": {Host: "192.0.2.1", Path: []string{"..a", "...", "b..c"}},
	} {
		got, err := ParseSource(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "host", "/path", ":/x", "@host:/x", "host:/../x", "host:..", "host:/a/../b", "host:/a/..",
		"::1:/x", "[::1]/x", "[]:/x", "[::1:/x", "ho/st:/x", "host:/a\x00b", "host:/" + strings.Repeat("n", 256),
		"host:" + strings.Repeat("/name", 1000),
	} {
		if got, err := ParseSource(in); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %+v, %v; want a usage error", in, got, err)
		}
	}
}

func TestSourceString(t *testing.T) {
	for in, want := range map[string]string{"me@host:a//b": "host:/a/b", "[::1]:": "[::1]:/"} {
		if s, err := ParseSource(in); err != nil || s.String() != want {
			t.Errorf("%q: %q, %v", in, s, err)
		}
	}
}

func TestParseArgs(t *testing.T) {
	id := func(n uint32) *uint32 { return &n }
	base := func(change func(*Options)) *Options { o := New(); change(o); return o }
	for _, c := range []struct {
		line string
		want Args
	}{
		{"host:/relativepath /localpoint -o port=12345 -o user=foo -o password=bar",
			Args{PasswordShown: true, Options: base(func(o *Options) {
				o.Port, o.User, o.Password, o.HasPassword = 12345, "foo", "bar", true
			})}},
		{"-oro,allow_other,acl host:/relativepath -o uid=5,gid=6,umask=022 /localpoint",
			Args{Options: base(func(o *Options) {
				o.Flags |= unix.MS_RDONLY
				o.AllowOther, o.ACL, o.UID, o.GID, o.Umask = true, new(true), id(5), id(6), id(0o22)
			})}},
		{"host:/relativepath /localpoint -sfnv -N 17 -o rw,x-systemd.automount,_netdev,nofail,noauto,users,user,comment=a,defaults,bogus=1 -t rpycfs",
			Args{Fake: true, Verbose: true, Options: base(func(o *Options) { o.Ignored = []string{"bogus"} })}},
		{"-r -v -- host:/relativepath /localpoint",
			Args{Verbose: true, Options: base(func(o *Options) { o.Flags |= unix.MS_RDONLY })}},
		{"-r -w host:/relativepath /localpoint -o suid,dev,noexec,noatime,sync",
			Args{Options: base(func(o *Options) { o.Flags = unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_SYNCHRONOUS })}},
		{"host:/relativepath /localpoint -o identity=a,identity=b,hostkey=strict,knownhosts=k,fingerprint=SHA256:x,idmap=raw,timeo=3,compress=on,soft,foreground,log=l,credentials=c,password-file=p,username=u",
			Args{Options: base(func(o *Options) {
				o.Identities, o.HostKey, o.KnownHosts, o.Fingerprint = []string{"a", "b"}, "strict", "k", "SHA256:x"
				o.IDMap, o.Timeo, o.Compress, o.Soft, o.Foreground, o.Log = "raw", 3*time.Second, "on", true, true, "l"
				o.Credentials, o.PasswordFile, o.User = "c", "p", "u"
			})}},
	} {
		got, err := ParseArgs(strings.Fields(c.line))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		c.want.Source, c.want.Dir = "host:/relativepath", "/localpoint"
		if !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s:\ngot  %+v %+v\nwant %+v %+v", c.line, *got, *got.Options, c.want, *c.want.Options)
		}
	}
}

func TestParseArgsErrors(t *testing.T) {
	for _, line := range []string{
		"", "host:/", "host:/ /a /b", "-o", "host:/ /a -o", "host:/ /a -x", "host:/ /a --what", "host:/ /a -t nfs",
		"host:/ /a -o bogus", "host:/ /a -o port", "host:/ /a -o port=", "host:/ /a -o port=0", "host:/ /a -o port=65536",
		"host:/ /a -o port=x", "host:/ /a -o ro=1", "host:/ /a -o uid=-1", "host:/ /a -o uid=4294967295", "host:/ /a -o umask=8",
		"host:/ /a -o umask=1000", "host:/ /a -o idmap=x", "host:/ /a -o compress=x", "host:/ /a -o hostkey=x", "host:/ /a -o timeo=0", "host:/ /a -o timeo=x",
		"host:/ /a -o remount,ro", "host:/ /a -s -o remount",
	} {
		if a, err := ParseArgs(strings.Fields(line)); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %+v, %v; want a usage error", line, a, err)
		}
	}
	for _, line := range []string{"-h", "--help", "-V", "--version", "-h whatever"} {
		if a, err := ParseArgs(strings.Fields(line)); err != nil || !a.Help && !a.Version {
			t.Errorf("%q: %+v, %v", line, a, err)
		}
	}
}

func TestServers(t *testing.T) {
	o := New()
	if err := o.Add("server=a,server=b:7,server=::1,server=[::1],port=5,server=[::2]:8", false); err != nil {
		t.Fatal(err)
	}
	if got, want := o.Addresses(), []string{"a:5", "b:7", "[::1]:5", "[::1]:5", "[::2]:8"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, v := range []string{"", "a:", "a:0", "a:x", ":5", "a/b", "[::1", "a:b:c"} {
		if err := New().Add("server="+v, false); !errors.Is(err, ErrUsage) {
			t.Errorf("server=%s: %v", v, err)
		}
	}
}

func TestParseCredentials(t *testing.T) {
	text := "# a comment\n\n  username = foo \r\npassword= with, comma = and # blank \ndomain=x\n"
	c, err := ParseCredentials(text)
	if want := (Credentials{"foo", " with, comma = and # blank ", true}); err != nil || c != want {
		t.Errorf("%+v, %v", c, err)
	}
	for _, text := range []string{"username", "bogus=x", "password\n"} {
		if _, err := ParseCredentials(text); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSecretFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write := func(text string, mode os.FileMode) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("pass word\r\nsecond\n", 0o600)
	if p, err := ReadPasswordFile(path); err != nil || p != "pass word" {
		t.Errorf("%q, %v", p, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601} {
		write("x", mode)
		if _, err := ReadPasswordFile(path); !errors.Is(err, ErrUsage) {
			t.Errorf("mode %o: %v", mode, err)
		}
		if _, err := ReadCredentials(path); !errors.Is(err, ErrUsage) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	write(strings.Repeat("x", maxSecret+1), 0o600)
	if _, err := ReadPasswordFile(path); !errors.Is(err, ErrUsage) {
		t.Errorf("a huge file: %v", err)
	}
	if _, err := ReadPasswordFile(path + "none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func FuzzParseSource(f *testing.F) {
	seeds := []string{"host:/a/b", "u@[::1]:/x", "host:/../x", "a@b@c:d/e", ""}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		src, err := ParseSource(s)
		if err != nil {
			return
		}
		for _, name := range src.Path {
			if !fsproto.ValidName(name) {
				t.Errorf("%q holds the name %q", s, name)
			}
		}
		again, err := ParseSource(src.String())
		if err != nil || again.Host != src.Host || !slices.Equal(again.Path, src.Path) {
			t.Errorf("%q is shown as %q, which is %+v, %v", s, src, again, err)
		}
	})
}

func FuzzParseArgs(f *testing.F) {
	for _, s := range []string{"host:/ /m -o port=1,user=a", "-sfnv -o ro\x1f-o x-a", "-o\x1f,,,=,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		a, err := ParseArgs(strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == 0x1f }))
		if err != nil && !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %v is no usage error", line, err)
		}
		if err == nil && (a.Options.Port < 1 || a.Options.Port > 65535) {
			t.Errorf("%q: port %d", line, a.Options.Port)
		}
	})
}

func FuzzParseCredentials(f *testing.F) {
	for _, s := range []string{"username=a\npassword=b\n", "#\n\n", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseCredentials(text); err == nil && strings.ContainsAny(c.User+c.Password, "\n") {
			t.Errorf("%q: %+v", text, c)
		}
	})
}
