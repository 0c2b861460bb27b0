// Package mounts finds mounts and the processes that serve them, without
// touching a mounted file system: one that does not answer must not stop the
// program that has come to unmount it.
package mounts

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FSType is the type of our mounts in the mount table.
const FSType = "fuse.rpycfs"

// ErrNotMounted says that nothing of ours is mounted there.
var ErrNotMounted = errors.New("not mounted")

// Mount is a line of /proc/self/mountinfo.
type Mount struct {
	Dev    string // major:minor
	Point  string // absolute path in this process's root
	Type   string
	Source string
	Owner  uint32 // user_id of a FUSE mount: who made it; 0 for others
}

// List returns the mounts that this process sees, in the order in which they
// were made: of several at one point the last is on top.
func List() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

// parse reads lines of proc_pid_mountinfo(5):
//
//	36 35 98:0 /root /point opts [field…] - type source superopts
func parse(r io.Reader) ([]Mount, error) {
	var list []Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		sep := -1
		for i := 6; i < len(f); i++ {
			if f[i] == "-" {
				sep = i
				break
			}
		}
		if sep < 0 || len(f) < sep+3 {
			return nil, fmt.Errorf("mountinfo: malformed line %q", lines.Text())
		}
		m := Mount{Dev: f[2], Point: unescape(f[4]), Type: f[sep+1], Source: unescape(f[sep+2])}
		if len(f) > sep+3 {
			m.Owner = owner(f[sep+3])
		}
		list = append(list, m)
	}
	return list, lines.Err()
}

// owner finds user_id= among the options of a super block.
func owner(options string) uint32 {
	for o := range strings.SplitSeq(options, ",") {
		if id, ok := strings.CutPrefix(o, "user_id="); ok {
			n, _ := strconv.ParseUint(id, 10, 32)
			return uint32(n)
		}
	}
	return 0
}

// unescape undoes the kernel's octal escapes of blank, tab, newline and "\".
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b bytes.Buffer
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return '0' <= c && c <= '7' }

// At returns the topmost mount at the absolute path point.
func At(point string) (Mount, error) {
	list, err := List()
	if err != nil {
		return Mount{}, err
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Point == point {
			return list[i], nil
		}
	}
	return Mount{}, fmt.Errorf("%s: %w", point, ErrNotMounted)
}

// Above returns the mount that the path lies in as it is written, without looking at
// it.
func Above(path string) (found Mount, err error) {
	list, err := List()
	if err != nil {
		return found, err
	}
	err = ErrNotMounted
	for at := filepath.Clean(path); err != nil; at = filepath.Dir(at) {
		for _, m := range list {
			if m.Point == at {
				found, err = m, nil
			}
		}
		if at == "/" || at == "." {
			break
		}
	}
	return found, err
}

// Find returns the topmost mount of ours that a person means by target: a mount
// point, or a source that is mounted once.
func Find(target string) (Mount, error) {
	list, err := List()
	if err != nil {
		return Mount{}, err
	}
	return find(list, target, spellings(list, target))
}

// spellings returns the paths that target may have in the mount table: as it was
// given, and with its symbolic links resolved.
func spellings(list []Mount, target string) []string {
	abs := filepath.Clean(target)
	if !filepath.IsAbs(abs) {
		dir, err := unix.Getwd() // os.Getwd looks at the directory, which may lie in the mount
		if err != nil {
			return nil
		}
		abs = filepath.Join(dir, abs)
	}
	if real, ok := resolve(list, abs); ok {
		return []string{abs, real}
	}
	return []string{abs}
}

// maxLinks is how many symbolic links the kernel follows in a path.
const maxLinks = 40

// resolve follows the symbolic links of an absolute path. It looks into no mount
// of ours: at one it is at the end, or gives up.
func resolve(list []Mount, path string) (string, bool) {
	at, left, links := "/", split(path), 0
	for len(left) > 0 {
		name := left[0]
		left = left[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		if slices.ContainsFunc(list, func(m Mount) bool { return m.Type == FSType && m.Point == next }) {
			return next, len(left) == 0
		}
		link, err := os.Readlink(next)
		if err != nil {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", false
		}
		if filepath.IsAbs(link) {
			at = "/"
		}
		left = slices.Concat(split(link), left)
	}
	return at, true
}

// split returns the components of a path.
func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool { return name == "" || name == "." })
}

func find(list []Mount, target string, points []string) (Mount, error) {
	for _, point := range points {
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].Point != point {
				continue
			}
			if list[i].Type != FSType {
				return Mount{}, fmt.Errorf("%s is a mount of type %s: %w", target, list[i].Type, ErrNotMounted)
			}
			return list[i], nil
		}
	}
	var found []Mount
	for _, m := range list {
		if m.Type == FSType && m.Source == target {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return Mount{}, fmt.Errorf("%s: %w", target, ErrNotMounted)
	case 1:
		return found[0], nil
	}
	return Mount{}, fmt.Errorf("%s is mounted at %d places; name one of them", target, len(found))
}
