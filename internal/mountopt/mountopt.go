// Package mountopt reads the command line of mount.rpycfs: the source, the
// options, and the credentials file. It opens no connection and mounts nothing.
package mountopt

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/fsproto"
)

// DefaultPort is the daemon's.
const DefaultPort = 19912

// ErrUsage marks errors of the command line.
var ErrUsage = errors.New("usage")

func usage(format string, args ...any) error {
	return fmt.Errorf("%s%w", fmt.Sprintf(format, args...), hidden{ErrUsage})
}

// hidden is an error that errors.Is sees and nobody reads.
type hidden struct{ error }

func (hidden) Error() string   { return "" }
func (h hidden) Unwrap() error { return h.error }

// Source is [user@]host:/path.
type Source struct {
	User string // "" if left out
	Host string // without brackets
	Path []string
}

// ParseSource reads a source. A path that leaves its root, like host:/../x, is
// refused here, before anything is sent. Without a leading "/" the path means
// the same, as there is no home directory to start from.
func ParseSource(s string) (Source, error) {
	var src Source
	rest := s
	// The user ends at the last "@" before the host's colon; none of the three
	// parts may hold a NUL.
	if strings.IndexByte(s, 0) >= 0 {
		return src, usage("source %q holds a NUL byte", s)
	}
	head, _, _ := strings.Cut(s, "/")
	if i := strings.LastIndexByte(head, '@'); i >= 0 {
		src.User, rest = s[:i], s[i+1:]
		if src.User == "" {
			return src, usage("source %q has an empty user name; want [user@]host:/path", s)
		}
	}
	var path string
	var ok bool
	if strings.HasPrefix(rest, "[") {
		src.Host, path, ok = strings.Cut(rest[1:], "]:")
	} else {
		src.Host, path, ok = strings.Cut(rest, ":")
	}
	if !ok || src.Host == "" || strings.ContainsAny(src.Host, "/[]") {
		return src, usage("source %q is not of the form [user@]host:/path", s)
	}
	if !strings.HasPrefix(rest, "[") && strings.Count(path, ":") > 0 && looksLikeIPv6(rest) {
		return src, usage("source %q: an IPv6 address stands in brackets, as in [::1]:/path", s)
	}
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == ".":
		case name == "..":
			return src, usage("source %q leaves the exported directory: \"..\" is not allowed", s)
		case !fsproto.ValidName(name):
			return src, usage("source %q: a name in the path is longer than %d bytes", s, fsproto.MaxName)
		default:
			src.Path = append(src.Path, name)
		}
	}
	if len(path) > fsproto.MaxPath {
		return src, usage("source: the path is longer than %d bytes", fsproto.MaxPath)
	}
	return src, nil
}

// looksLikeIPv6 reports whether what stands before the path is made of hex
// digits and at least two colons.
func looksLikeIPv6(s string) bool {
	head, _, _ := strings.Cut(s, "/")
	return strings.Count(head, ":") > 1 && strings.Trim(head, "0123456789abcdefABCDEF:.%") == ""
}

// String returns the source as the mount table shows it, without the user.
func (s Source) String() string {
	host := s.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":/" + strings.Join(s.Path, "/")
}

// Options are the options of a mount. The zero value of a field means that it
// was not given.
type Options struct {
	Port         int
	Servers      []string // further addresses of the daemon: host, or host:port
	User         string
	Password     string
	HasPassword  bool // Password was given, perhaps empty
	Credentials  string
	PasswordFile string
	Identities   []string
	Fingerprint  string
	HostKey      string // "", accept-new, ask or strict
	KnownHosts   string

	Flags      uintptr // MS_… bits for mount(2)
	ACL        *bool   // pass POSIX ACLs on
	AllowOther bool
	NoLock     bool   // locks are local only
	NoInotify  bool   // inotify(7) tells of this machine's changes only
	Compress   string // auto, on or off
	IDMap      string // self, raw or name
	UID, GID   *uint32
	Umask      *uint32

	Timeo      time.Duration // timeo=; 0 if not given
	Soft       bool          // what needs the server fails after timeo, and does not wait on
	Foreground bool
	Log        string

	// Ignored are options that were not understood and left out, by -s.
	Ignored []string
}

// New returns the options of a mount for which nothing was said.
func New() *Options {
	return &Options{
		Port:  DefaultPort,
		Flags: unix.MS_NOSUID | unix.MS_NODEV,
	}
}

// Add reads the value of one -o. Later options win over earlier ones. An option
// that is not known is an error unless sloppy is set.
//
// Options end at commas, so no value can hold one; a credentials file takes any
// password.
func (o *Options) Add(list string, sloppy bool) error {
	for opt := range strings.SplitSeq(list, ",") {
		if opt == "" {
			continue
		}
		name, value, hasValue := strings.Cut(opt, "=")
		known, err := o.set(name, value, hasValue)
		if err != nil {
			return err
		}
		if !known {
			if !sloppy {
				return usage("unknown mount option %q", name)
			}
			o.Ignored = append(o.Ignored, name)
		}
	}
	return nil
}

// set takes one option. It reports whether the option is known.
func (o *Options) set(name, value string, hasValue bool) (known bool, err error) {
	if name == "remount" {
		return true, usage("remount is not possible; unmount, then mount again")
	}
	bare := plain[name] // "user" alone is mount(8)'s, user=NAME is ours
	if f, ok := valued[name]; ok && (hasValue || bare == nil) {
		if !hasValue || value == "" && name != "password" && name != "pass" {
			return true, usage("mount option %q needs a value", name)
		}
		return true, f(o, value)
	}
	if strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") || name == "comment" {
		return true, nil
	}
	if bare == nil {
		return false, nil
	}
	if hasValue {
		return true, usage("mount option %q takes no value", name)
	}
	bare(o)
	return true, nil
}

// valued are the options that need a value.
var valued = map[string]func(*Options, string) error{
	"port":          func(o *Options, v string) error { return number(&o.Port, "port", v, 1, 65535) },
	"server":        addServer,
	"user":          func(o *Options, v string) error { o.User = v; return nil },
	"username":      func(o *Options, v string) error { o.User = v; return nil },
	"password":      setPassword,
	"pass":          setPassword,
	"credentials":   func(o *Options, v string) error { o.Credentials = v; return nil },
	"password-file": func(o *Options, v string) error { o.PasswordFile = v; return nil },
	"identity":      func(o *Options, v string) error { o.Identities = append(o.Identities, v); return nil },
	"fingerprint":   func(o *Options, v string) error { o.Fingerprint = v; return nil },
	"hostkey": func(o *Options, v string) error {
		return choice(&o.HostKey, "hostkey", v, "accept-new", "ask", "strict")
	},
	"compress":   func(o *Options, v string) error { return choice(&o.Compress, "compress", v, "auto", "on", "off") },
	"knownhosts": func(o *Options, v string) error { o.KnownHosts = v; return nil },
	"idmap":      func(o *Options, v string) error { return choice(&o.IDMap, "idmap", v, "self", "raw", "name") },
	"uid":        func(o *Options, v string) error { return id(&o.UID, "uid", v, 10, 1<<32-2) },
	"gid":        func(o *Options, v string) error { return id(&o.GID, "gid", v, 10, 1<<32-2) },
	"umask":      func(o *Options, v string) error { return id(&o.Umask, "umask", v, 8, 0o777) },
	"timeo":      setTimeo,
	"log":        func(o *Options, v string) error { o.Log = v; return nil },
}

// plain are the options that take no value. mount(8) passes some on that mean
// something to itself only.
var plain = map[string]func(*Options){
	"ro": flag(unix.MS_RDONLY, true), "rw": flag(unix.MS_RDONLY, false),
	"nosuid": flag(unix.MS_NOSUID, true), "suid": flag(unix.MS_NOSUID, false),
	"nodev": flag(unix.MS_NODEV, true), "dev": flag(unix.MS_NODEV, false),
	"noexec": flag(unix.MS_NOEXEC, true), "exec": flag(unix.MS_NOEXEC, false),
	"sync": flag(unix.MS_SYNCHRONOUS, true), "async": flag(unix.MS_SYNCHRONOUS, false),
	"dirsync": flag(unix.MS_DIRSYNC, true),
	"noatime": flag(unix.MS_NOATIME, true), "atime": flag(unix.MS_NOATIME, false),
	"nodiratime": flag(unix.MS_NODIRATIME, true), "diratime": flag(unix.MS_NODIRATIME, false),
	"relatime": flag(unix.MS_RELATIME, true), "norelatime": flag(unix.MS_RELATIME, false),
	"strictatime": flag(unix.MS_STRICTATIME, true), "nostrictatime": flag(unix.MS_STRICTATIME, false),
	"lazytime": flag(unix.MS_LAZYTIME, true), "nolazytime": flag(unix.MS_LAZYTIME, false),
	"silent": flag(unix.MS_SILENT, true), "loud": flag(unix.MS_SILENT, false),
	"nosymfollow": flag(unix.MS_NOSYMFOLLOW, true), "symfollow": flag(unix.MS_NOSYMFOLLOW, false),
	"mand": nothing, "nomand": nothing, "iversion": nothing, "noiversion": nothing,
	"defaults": func(o *Options) { o.Flags &^= unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_SYNCHRONOUS },

	"acl":         func(o *Options) { o.ACL = new(true) },
	"noacl":       func(o *Options) { o.ACL = new(false) },
	"lock":        func(o *Options) { o.NoLock = false },
	"nolock":      func(o *Options) { o.NoLock = true },
	"inotify":     func(o *Options) { o.NoInotify = false },
	"noinotify":   func(o *Options) { o.NoInotify = true },
	"hard":        func(o *Options) { o.Soft = false },
	"soft":        func(o *Options) { o.Soft = true },
	"allow_other": func(o *Options) { o.AllowOther = true },
	"foreground":  func(o *Options) { o.Foreground = true },

	"auto": nothing, "noauto": nothing, "nofail": nothing, "_netdev": nothing, "_rnetdev": nothing,
	"user": nothing, "users": nothing, "owner": nothing, "group": nothing,
	"nouser": nothing, "nousers": nothing, "noowner": nothing, "nogroup": nothing,
}

func nothing(*Options) {}

func flag(bit uintptr, on bool) func(*Options) {
	return func(o *Options) {
		if on {
			o.Flags |= bit
		} else {
			o.Flags &^= bit
		}
	}
}

func setPassword(o *Options, v string) error {
	o.Password, o.HasPassword = v, true
	return nil
}

// addServer takes host or host:port; an IPv6 address with a port stands in brackets.
func addServer(o *Options, v string) error {
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		host, port = bare(v), "1"
	}
	_, err = netip.ParseAddr(host)
	n, perr := strconv.ParseUint(port, 10, 16)
	if host == "" || strings.ContainsAny(host, "[]/ ") || strings.Contains(host, ":") && err != nil || perr != nil || n == 0 {
		return usage("mount option server=%s: want host or host:port", v)
	}
	o.Servers = append(o.Servers, v)
	return nil
}

// bare returns a host without the brackets of an IPv6 address.
func bare(host string) string {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			return inner
		}
	}
	return host
}

// Addresses returns the daemon's further addresses as host:port.
func (o *Options) Addresses() (list []string) {
	for _, v := range o.Servers {
		if _, _, err := net.SplitHostPort(v); err != nil {
			v = net.JoinHostPort(bare(v), strconv.Itoa(o.Port))
		}
		list = append(list, v)
	}
	return list
}

// setTimeo takes seconds, or a duration with a unit.
func setTimeo(o *Options, v string) error {
	d, err := time.ParseDuration(v)
	if n, nerr := strconv.ParseUint(v, 10, 16); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d <= 0 || d > time.Hour {
		return usage("mount option timeo=%s: want seconds, as in timeo=10", v)
	}
	o.Timeo = d
	return nil
}

func number(p *int, name, v string, least, most int) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		return usage("mount option %s=%s: want a number from %d to %d", name, v, least, most)
	}
	*p = n
	return nil
}

func id(p **uint32, name, v string, base int, most uint64) error {
	n, err := strconv.ParseUint(v, base, 32)
	if err != nil || n > most {
		return usage("mount option %s=%s: not a number of that kind", name, v)
	}
	u := uint32(n)
	*p = &u
	return nil
}

func choice(p *string, name, v string, of ...string) error {
	for _, c := range of {
		if v == c {
			*p = v
			return nil
		}
	}
	return usage("mount option %s=%s: want %s", name, v, strings.Join(of, ", "))
}
