package mountopt

import "strings"

// Args is the command line of mount.rpycfs.
type Args struct {
	Source, Dir string
	Options     *Options

	Fake    bool // -f: all but the mount itself
	Verbose bool // -v
	Help    bool // -h, --help
	Version bool // -V, --version

	// PasswordShown reports that the password stands on the command line,
	// where every user of the machine can read it.
	PasswordShown bool
}

// Usage is the text of -h.
const Usage = `usage: mount.rpycfs [user@]host:/path DIR [-o option[,option…]]…

options:
  port=N             the daemon's port (default 19912)
  server=HOST[:PORT] a further address of the daemon; may be repeated
  user=NAME          log in as NAME (also username=, or user@ in the source)
  credentials=FILE   lines username=NAME and password=TEXT; mode 0600
  password-file=FILE first line is the password; mode 0600
  password=TEXT      readable by every user of this machine; better a file
  identity=FILE      an ssh key to log in with; may be repeated
  fingerprint=TEXT   the daemon's key must have this fingerprint
  hostkey=HOW        accept-new, ask or strict, for daemons met the first time
  knownhosts=FILE    keys of known daemons
  ro, rw             read-only or not
  allow_other        let other users of this machine in
  nolock             locks are seen by programs of this machine only
  noinotify          no inotify events for what others change
  idmap=HOW          self, raw or name: which owners there are which here
  acl, noacl         pass POSIX ACLs on, or not
  uid=N gid=N        show everything as this owner or group
  umask=OCTAL        replace the permission bits that are shown
  timeo=SECONDS      how long to wait for a host that is out of reach
                     (default 30; at first contact 1.8)
  hard, soft         after that wait on, or fail with ETIMEDOUT
  foreground         stay in the foreground
  log=FILE           write the log there
and the usual ones of mount(8).

  -f fake   -s ignore unknown options   -v verbose   -r -o ro   -w -o rw
  -n no mtab (there is none)   -V version   -h help
`

// ParseArgs reads the arguments after the program's name. Options may stand
// anywhere, as mount(8) puts them behind source and directory:
//
//	mount.rpycfs source dir [-sfnvrw] [-N namespace] [-o options] [-t type]
//
// Errors wrap ErrUsage.
func ParseArgs(args []string) (*Args, error) {
	a := &Args{Options: New()}
	p := parser{Args: a, rest: args}
	for len(p.rest) > 0 {
		arg := p.rest[0]
		p.rest = p.rest[1:]
		var err error
		switch {
		case p.literal || arg == "-" || !strings.HasPrefix(arg, "-"):
			p.words = append(p.words, arg)
		case arg == "--":
			p.literal = true
		case strings.HasPrefix(arg, "--"):
			err = p.long(arg[2:])
		default:
			err = p.short(arg[1:])
		}
		if err != nil {
			return nil, err
		}
	}
	if a.Help || a.Version {
		return a, nil
	}
	return a, p.finish()
}

type parser struct {
	*Args
	rest    []string
	words   []string // arguments that are no options
	lists   []string // values of -o
	literal bool     // after "--"
	sloppy  bool
}

func (p *parser) long(name string) error {
	switch name {
	case "help":
		p.Help = true
	case "version":
		p.Version = true
	case "verbose":
		p.Verbose = true
	case "fake":
		p.Fake = true
	default:
		return usage("unknown option --%s; see mount.rpycfs -h", name)
	}
	return nil
}

// short reads a group of one-letter options; the last may take a value, joined
// or as the next argument.
func (p *parser) short(group string) error {
	for i := 0; i < len(group); i++ {
		switch c := group[i]; c {
		case 'f':
			p.Fake = true
		case 'v':
			p.Verbose = true
		case 's':
			p.sloppy = true
		case 'r':
			p.lists = append(p.lists, "ro")
		case 'w':
			p.lists = append(p.lists, "rw")
		case 'n':
		case 'h':
			p.Help = true
		case 'V':
			p.Version = true
		case 'o', 't', 'N':
			value := group[i+1:]
			if value == "" {
				if len(p.rest) == 0 {
					return usage("option -%c needs a value", c)
				}
				value, p.rest = p.rest[0], p.rest[1:]
			}
			return p.value(c, value)
		default:
			return usage("unknown option -%c; see mount.rpycfs -h", c)
		}
	}
	return nil
}

// value takes the value of -o, -t or -N. mount(8) has entered the name space
// of -N already.
func (p *parser) value(c byte, value string) error {
	switch c {
	case 'o':
		p.lists = append(p.lists, value)
	case 't':
		if value != "rpycfs" && value != "fuse.rpycfs" && value != "fuse" {
			return usage("file system type %q is not ours", value)
		}
	}
	return nil
}

// finish checks what can be checked when all arguments are there.
func (p *parser) finish() error {
	if len(p.words) != 2 {
		return usage("want a source and a directory, as in: mount.rpycfs host:/path DIR; see mount.rpycfs -h")
	}
	p.Source, p.Dir = p.words[0], p.words[1]
	for _, list := range p.lists {
		if err := p.Options.Add(list, p.sloppy); err != nil {
			return err
		}
	}
	p.PasswordShown = p.Options.HasPassword
	return nil
}
