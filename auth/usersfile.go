package auth

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A users file looks like this; "#" begins a comment line:
//
//	[alice]
//	password = SCRAM-SHA-256$600000:SALT$STOREDKEY:SERVERKEY
//	read-only = yes
//	root = projects/alice
//	trusted = no
//	no-root-squash = no
//	authorized-keys = /home/alice/.ssh/authorized_keys
//	key = ssh-ed25519 AAAA… alice@laptop
//
// Every setting may be left out, key may be repeated, everything else stands at
// most once. A relative path of authorized-keys counts from the directory of the
// users file. What is not known is refused.

// usersParser is the state of reading a users file.
type usersParser struct {
	file     string
	line     int
	users    *Users
	current  *User
	seen     map[string]bool // settings of the current user
	comments []string        // not yet attached to anything
}

// parseUsers reads the text of a users file; errors name file and line.
func parseUsers(file string, text []byte) (*Users, error) {
	p := usersParser{file: file, users: NewUsers()}
	for line := range bytes.Lines(text) {
		p.line++
		if err := p.parseLine(strings.TrimSpace(string(line))); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, p.line, err)
		}
	}
	p.users.tail = p.comments
	return p.users, nil
}

func (p *usersParser) parseLine(line string) error {
	switch {
	case strings.ContainsAny(line, "\x00\r"):
		return errors.New("control character")
	case line == "":
		return nil
	case line[0] == '#':
		p.comments = append(p.comments, line)
		return nil
	case line[0] == '[':
		return p.header(line)
	}
	if p.current == nil {
		return errors.New("a setting before the first [user]")
	}
	name, value, ok := strings.Cut(line, "=")
	if !ok {
		return errors.New("neither [user] nor setting = value")
	}
	p.current.inside = append(p.current.inside, p.comments...)
	p.comments = nil
	return p.setting(strings.TrimSpace(name), strings.TrimSpace(value))
}

// header begins the section of a user.
func (p *usersParser) header(line string) error {
	name, ok := strings.CutSuffix(line[1:], "]")
	if !ok {
		return errors.New("a user's header ends with ]")
	}
	if err := CheckUserName(name); err != nil {
		return err
	}
	if _, twice := p.users.users[name]; twice {
		return fmt.Errorf("user %s stands here twice", name)
	}
	p.current = &User{Name: name, above: p.comments}
	p.comments, p.seen = nil, make(map[string]bool)
	p.users.users[name] = p.current
	p.users.order = append(p.users.order, name)
	return nil
}

func (p *usersParser) setting(name, value string) error {
	if p.seen[name] && name != "key" {
		return fmt.Errorf("%s stands here twice", name)
	}
	p.seen[name] = true
	if value == "" {
		return fmt.Errorf("%s has no value", name)
	}
	u := p.current
	var err error
	switch name {
	case "password":
		u.verifier, err = parseVerifier(value)
	case "read-only":
		u.ReadOnly, err = parseYes(value)
	case "trusted":
		u.Trusted, err = parseYes(value)
	case "no-root-squash":
		u.NoRootSquash, err = parseYes(value)
	case "root":
		u.Root = value
	case "authorized-keys":
		u.KeysFile = value
	case "key":
		var k AuthorizedKey
		k, err = ParseAuthorizedKey(value)
		u.Keys = append(u.Keys, k)
	default:
		return fmt.Errorf("unknown setting %q", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return u.check()
}

func parseYes(s string) (bool, error) {
	switch s {
	case "yes":
		return true, nil
	case "no":
		return false, nil
	}
	return false, errors.New("not yes or no")
}

// format is the text that parseUsers reads.
func (u *Users) format() []byte {
	u.mu.RLock()
	defer u.mu.RUnlock()
	var b bytes.Buffer
	for i, name := range u.order {
		if i > 0 {
			b.WriteByte('\n')
		}
		u.users[name].format(&b)
	}
	if len(u.tail) > 0 && len(u.order) > 0 {
		b.WriteByte('\n')
	}
	writeLines(&b, u.tail)
	return b.Bytes()
}

func (u *User) format(b *bytes.Buffer) {
	writeLines(b, u.above)
	fmt.Fprintf(b, "[%s]\n", u.Name)
	writeLines(b, u.inside)
	if u.verifier != nil {
		fmt.Fprintf(b, "password = %s\n", u.verifier)
	}
	if u.ReadOnly {
		b.WriteString("read-only = yes\n")
	}
	if u.Root != "" {
		fmt.Fprintf(b, "root = %s\n", u.Root)
	}
	if u.Trusted {
		b.WriteString("trusted = yes\n")
	}
	if u.NoRootSquash {
		b.WriteString("no-root-squash = yes\n")
	}
	if u.KeysFile != "" {
		fmt.Fprintf(b, "authorized-keys = %s\n", u.KeysFile)
	}
	for _, k := range u.Keys {
		fmt.Fprintf(b, "key = %s\n", k)
	}
	if len(u.inside) > 0 && u.bare() { // a comment needs a setting to stay inside
		b.WriteString("read-only = no\n")
	}
}

// bare reports whether the user has no setting that format writes.
func (u *User) bare() bool {
	return u.verifier == nil && !u.ReadOnly && u.Root == "" && !u.Trusted && !u.NoRootSquash && u.KeysFile == "" && len(u.Keys) == 0
}

func writeLines(b *bytes.Buffer, lines []string) {
	for _, l := range lines {
		b.WriteString(l)
		b.WriteByte('\n')
	}
}

// Save writes the users to path, atomically and with mode 0600. Comments stay.
func (u *Users) Save(path string) error { return writeAtomic(path, u.format()) }

// EditUsers changes a users file, which is made if it does not exist: it locks
// the file, reads it, calls change and saves what that left. Editors wait for
// each other. After an error the file is as it was.
func EditUsers(path string, change func(*Users) error) (err error) {
	// A name that is a symlink stays one: what it points to is replaced.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	f, err := lockFile(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := readChecked(f, 0o077, "the password verifiers")
	if err != nil {
		return err
	}
	if len(text) == 0 {
		// Possibly made by this call; an empty file is never worth keeping.
		defer func() {
			if err != nil {
				os.Remove(path)
			}
		}()
	}
	users, err := parseUsers(path, text)
	if err != nil {
		return err
	}
	if err := change(users); err != nil {
		return err
	}
	return users.Save(path)
}
