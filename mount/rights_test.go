package mount_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rpycfs/rpycfs/internal/conformance"
)

// asRoot says whether tests that need processes of several users run. They are
// root's, and part of every run as root.
func asRoot(t *testing.T) bool {
	if !needFUSE(t) {
		return false
	}
	if os.Geteuid() != 0 {
		t.Log("not root: no processes of other users")
		return false
	}
	return true
}

// person is a user here, and an account on the server.
type person struct {
	name       string
	uid, gid   uint32 // here
	suid, sgid uint32 // on the server, by the same name
}

// The server has the accounts root, foo, games, mail and nobody, with numbers of
// its own; foo is not known here, lp not there.
var (
	root   = person{"root", 0, 0, 0, 0}
	foo    = person{"foo", nobodyID, nobodyID, 2001, 2001}
	games  = person{name: "games", suid: 2005, sgid: 2060}
	mail   = person{name: "mail", suid: 2008, sgid: 2008}
	nobody = person{"nobody", nobodyID, nobodyID, nobodyID, nobodyID}
)

const nobodyID = 65534

// rightsWorld is a world whose daemon runs on a machine of its own as far as
// users go.
func rightsWorld(t *testing.T, daemonArgs ...string) *world {
	t.Helper()
	w := emptyWorld(t)
	w.ok(os.Chmod(w.tmp, 0o755))
	var passwd, group strings.Builder
	for _, p := range []*person{&root, &foo, &games, &mail, &nobody} {
		if p == &games || p == &mail {
			u, err := user.Lookup(p.name)
			w.ok(err)
			p.uid, p.gid = number(w, u.Uid), number(w, u.Gid)
		}
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/:/bin/sh\n", p.name, p.suid, p.sgid)
		fmt.Fprintf(&group, "%s:x:%d:\n", groupName(w, p), p.sgid)
	}
	w.ok(os.WriteFile(w.tmp+"/passwd", []byte(passwd.String()), 0o644))
	w.ok(os.WriteFile(w.tmp+"/group", []byte(group.String()), 0o644))
	// The mounts of other tests would not end before this daemon does.
	w.inside = []string{"unshare", "--mount", "--propagation", "private", "sh", "-euc",
		`awk '$3 ~ /^fuse[.]/ {print $2}' /proc/mounts | xargs -r umount -l || true
		mount --bind "$0/passwd" /etc/passwd; mount --bind "$0/group" /etc/group; exec "$@"`, w.tmp}
	w.startDaemon(daemonArgs...)
	return w
}

// groupName is what the person's group is called here.
func groupName(w *world, p *person) string {
	g, err := user.LookupGroupId(strconv.Itoa(int(p.gid)))
	if err != nil || p == &foo {
		return p.name
	}
	return g.Name
}

func number(w *world, text string) uint32 {
	w.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	w.ok(err)
	return uint32(n)
}

// as runs a shell script as a user, with further groups, in the mount.
func (w *world) as(p person, script string, groups ...uint32) string {
	w.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "M=" + w.point, "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.uid, Gid: p.gid, Groups: groups}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		w.Errorf("%s: %v", p.name, err)
	}
	return strings.TrimSpace(out.String())
}

// owned makes a file in the export that belongs to somebody.
func (w *world) owned(name string, mode os.FileMode, uid, gid uint32) {
	w.Helper()
	path := w.export + "/" + name
	w.ok(os.WriteFile(path, []byte(name+"\n"), mode))
	w.ok(os.Chown(path, int(uid), int(gid)))
	w.ok(os.Chmod(path, mode))
}

func owner(w *world, path string) string {
	w.Helper()
	var st syscall.Stat_t
	w.ok(syscall.Lstat(path, &st))
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func both(uid, gid uint32) string { return fmt.Sprintf("%d:%d", uid, gid) }

// cell is what one user sees and may do in one mount.
type cell struct {
	sees    string // the owner of games' file and of mail's
	reads   string // which of the two can be read
	makes   string // the owner of a new file, on the server
	changes string // whose file can be chmodded: games', mail's
}

// cellOf finds out.
func (w *world) cellOf(p person, made string) cell {
	w.Helper()
	const script = `cd $M || exit 0
		stat -c %u:%g games mail
		for f in games mail; do cat $f >/dev/null 2>&1 && echo "reads $f"; done
		for f in games mail; do chmod 600 $f 2>/dev/null && echo "changes $f"; done
		echo x >drop/made && echo "made"`
	if err := os.Remove(w.point + "/drop/made"); err != nil && !os.IsNotExist(err) {
		w.Error(err)
	}
	var c cell
	var sees, reads, changes []string
	for line := range strings.Lines(w.as(p, script)) {
		line = strings.TrimSpace(line)
		switch what, file, _ := strings.Cut(line, " "); what {
		case "reads":
			reads = append(reads, file)
		case "changes":
			changes = append(changes, file)
		case "made":
			c.makes = owner(w, w.export+"/drop/made")
			if seen := owner(w, w.point+"/drop/made"); seen != made {
				w.Errorf("%s: the owner of the new file is seen as %s, want %s", p.name, seen, made)
			}
		default:
			sees = append(sees, line)
		}
	}
	c.sees, c.reads, c.changes = strings.Join(sees, " "), strings.Join(reads, " "), strings.Join(changes, " ")
	return c
}

// TestWhoSeesWhat is the table "Several users and one mount" of
// mount.rpycfs(8), cell by cell: by each mode and idmap what three users here
// see and may do in a tree with files of two accounts there.
func TestWhoSeesWhat(t *testing.T) {
	if !asRoot(t) {
		return
	}
	for _, mode := range []string{"daemon", "account", "caller", "caller,no_root_squash"} {
		t.Run(mode, func(t *testing.T) {
			w := rightsWorld(t, "--run-as="+mode)
			w.ok(os.Mkdir(w.export+"/drop", 0o777))
			w.ok(os.Chmod(w.export+"/drop", 0o777))
			usual, other := "self", "raw"
			if strings.HasPrefix(mode, "caller") {
				usual, other = other, usual
			}
			t.Run(usual, func(t *testing.T) { w.in(t).table(mode, usual) }) // because nothing is said
			t.Run(other, func(t *testing.T) { w.in(t).table(mode, other, "idmap="+other) })
			t.Run("name", func(t *testing.T) { w.in(t).table(mode, "name", "idmap=name") })
			t.Run("alone", func(t *testing.T) { w.in(t).alone() })
		})
	}
}

// in is the same world in a subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.T = t
	return &sub
}

// alone mounts without allow_other: nobody but who has mounted gets in.
func (w *world) alone() {
	w.mount("/")
	if got := w.as(root, "cd $M && echo in"); got != "in" {
		w.Errorf("who has mounted: %s", got)
	}
	for _, p := range []person{games, mail} {
		if got := w.as(p, "cd $M 2>/dev/null && echo in; ls $M/drop 2>&1 || true"); strings.HasPrefix(got, "in") || !strings.Contains(got, "Permission denied") {
			w.Errorf("%s: %s", p.name, got)
		}
	}
}

// table tries one row with each user.
func (w *world) table(mode, how string, options ...string) {
	w.Helper()
	// With names, the accounts have numbers of their own on the server. Otherwise
	// those who have the same number there are meant.
	there := func(p person) (uid, gid uint32) {
		if how == "name" {
			return p.suid, p.sgid
		}
		return p.uid, p.gid
	}
	for _, p := range []person{games, mail} {
		uid, gid := there(p)
		w.owned(p.name, 0o600, uid, gid)
	}
	w.mount("/", append(options, "allow_other")...)
	for _, p := range []person{root, games, mail} {
		var want cell
		want.sees = both(games.uid, games.gid) + " " + both(mail.uid, mail.gid)
		acts, seen := p, both(p.uid, p.gid)
		switch {
		case mode == "daemon":
			acts, seen = root, both(0, 0) // the daemon is root's
		case mode == "account":
			acts, seen = foo, map[string]string{"self": both(0, 0), "raw": both(foo.suid, foo.sgid), "name": both(nobodyID, nobodyID)}[how]
		case p == root && mode == "caller":
			acts, seen = nobody, both(nobodyID, nobodyID)
			if how == "self" {
				seen = both(0, 0)
			}
		}
		uid, gid := there(acts)
		if acts == foo {
			uid, gid = foo.suid, foo.sgid
		}
		want.makes = both(uid, gid)
		switch acts {
		case root:
			want.reads, want.changes = "games mail", "games mail"
		case games, mail:
			want.reads, want.changes = acts.name, acts.name
		}
		if got := w.cellOf(p, seen); got != want {
			w.Errorf("%s:\n got %+v\nwant %+v", p.name, got, want)
		}
	}
}

// rightsRows are the rows of our table that rights have to do with.
var rightsRows = []string{
	"ACL", "Access", "Ch", "Copy", "Create", "Device", "Exec", "Fallocate", "Fifo", "Link", "Mk", "Open", "Rename",
	"Rmdir", "SetID", "Socket", "Stat", "Symlink", "Times", "Tmpfile", "Truncate", "Umask", "Unlink", "Xattr",
}

// TestConformanceCaller runs our table as root who is not squashed: everything
// is as on the server's own disk.
func TestConformanceCaller(t *testing.T) {
	if !asRoot(t) {
		return
	}
	w := newWorld(t, "--run-as=caller,no_root_squash")
	w.mount("/", "dev", "suid")
	conformance.Run(t, w.point, conformance.All, rightsRows...)
}

// TestACLs passes ACLs through to a daemon that decides by itself.
func TestACLs(t *testing.T) {
	if !needFUSE(t) {
		return
	}
	w := newWorld(t)
	w.mount("/", "acl")
	conformance.Run(t, w.point, conformance.ACLs, "ACL")
}
