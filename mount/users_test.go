package mount_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// callerModes are the options with which several users share a mount of a daemon
// that acts with their rights: the kernel checks permissions in the first only.
var callerModes = map[string][]string{
	"kernel checks": {"allow_other"},
	"server checks": {"allow_other", "idmap=name"},
}

// onServer returns who a person is on the server in such a mount.
func onServer(p person, options []string) (uid, gid uint32) {
	if len(options) > 1 {
		return p.suid, p.sgid
	}
	return p.uid, p.gid
}

// TestCallers has several users share a mount of a daemon that acts with their
// rights.
func TestCallers(t *testing.T) {
	if !asRoot(t) {
		return
	}
	for name, options := range callerModes {
		t.Run(name, func(t *testing.T) {
			w := rightsWorld(t, "--run-as=caller")
			w.mount("/", options...)
			for name, test := range map[string]func(*world, []string){
				"side by side":           sideBySide,
				"by another's lookup":    byAnothersLookup,
				"list without search":    listWithoutSearch,
				"supplementary groups":   supplementaryGroups,
				"execute only":           executeOnly,
				"locks":                  locksOfUsers,
				"a right that was given": rightGiven,
			} {
				t.Run(name, func(t *testing.T) { test(w.in(t), options) })
			}
		})
	}
}

// sideBySide has two users make files of all kinds at the same time.
// RPYCFS_USER_OPS is how many they make together.
func sideBySide(w *world, options []string) {
	ops := 400
	if v := os.Getenv("RPYCFS_USER_OPS"); v != "" {
		ops = int(number(w, v))
	}
	w.ok(os.Mkdir(w.export+"/d", 0o777))
	w.ok(os.Chmod(w.export+"/d", 0o777))
	var workers []*exec.Cmd
	users := []person{games, mail, games, mail}
	for i, p := range users {
		uid, gid := onServer(p, options)
		w.owned("secret-"+p.name, 0o600, uid, gid)
		others := "/secret-" + map[string]string{"games": "mail", "mail": "games"}[p.name]
		cmd := w.worker(p, nil, "make", w.point+"/d", p.name+strconv.Itoa(i), strconv.Itoa(ops/len(users)), w.point+others)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		workers = append(workers, cmd)
	}
	for _, cmd := range workers {
		w.ok(cmd.Start())
	}
	for _, cmd := range workers {
		if err := cmd.Wait(); err != nil {
			w.Errorf("%s: %v", cmd.Args[4], err)
		}
	}
	w.checkOwners(options)
}

// checkOwners looks on the server whose the files in d are.
func (w *world) checkOwners(options []string) {
	w.Helper()
	entries, err := os.ReadDir(w.export + "/d")
	w.ok(err)
	if len(entries) == 0 {
		w.Error("nothing was made")
	}
	for _, e := range entries {
		p := games
		if strings.HasPrefix(e.Name(), "mail") {
			p = mail
		}
		if got, want := owner(w, w.export+"/d/"+e.Name()), both(onServer(p, options)); got != want {
			w.Errorf("%s belongs to %s, want %s", e.Name(), got, want)
		}
	}
}

// byAnothersLookup: what one user has just looked up lets no other
// one into a directory that he may not search, nor does what access(2) has just
// allowed him.
func byAnothersLookup(w *world, options []string) {
	w.ok(os.Mkdir(w.export+"/own", 0o700))
	w.owned("own/file", 0o644, 0, 0)
	uid, gid := onServer(games, options)
	w.ok(os.Chown(w.export+"/own", int(uid), int(gid)))
	const look = `cd /
		stat -c %n $M/own/file; stat -c %n $M/own/none; test -r $M/own && echo readable; cat $M/own/file
		ls $M/own; cd $M/own && echo inside`
	for range 3 {
		got := w.as(games, look+" || true")
		for _, want := range []string{"No such file", "readable", "own/file\n", "inside"} {
			if !strings.Contains(got, want) {
				w.Fatalf("games: no %q in %s", want, got)
			}
		}
		got = w.as(mail, look+" || true")
		if n := strings.Count(got, "Permission denied"); n != 4 || strings.Contains(got, "readable") || strings.Contains(got, "inside") {
			w.Fatalf("mail: %s", got)
		}
	}
}

// listWithoutSearch: who may read a directory and not search it gets names.
func listWithoutSearch(w *world, options []string) {
	w.ok(os.Mkdir(w.export+"/list", 0o700))
	w.owned("list/file", 0o644, 0, 0)
	w.ok(os.Chmod(w.export+"/list", 0o744))
	if got := w.as(mail, "ls $M/list; ls $M/list; stat $M/list/file || true"); !strings.HasPrefix(got, "file\nfile\n") || !strings.Contains(got, "Permission denied") {
		w.Error(got)
	}
}

// supplementaryGroups: they count, and count no more when the process has
// others.
func supplementaryGroups(w *world, options []string) {
	_, gid := onServer(mail, options)
	w.owned("group", 0o640, 0, gid)
	w.owned("denied", 0o604, 0, gid) // to the group alone
	if got := w.as(games, "cat $M/group $M/denied 2>&1 || true", mail.gid); !strings.HasPrefix(got, "group") || !strings.Contains(got, "denied: Permission denied") {
		w.Errorf("in the group: %s", got)
	}
	if got := w.as(games, "cat $M/group $M/denied 2>&1 || true"); !strings.Contains(got, "group: Permission denied") || !strings.HasSuffix(got, "denied") {
		w.Errorf("not in the group: %s", got)
	}
}

// executeOnly: a program that may be executed and not read.
func executeOnly(w *world, options []string) {
	data, err := os.ReadFile("/bin/echo")
	w.ok(err)
	w.ok(os.WriteFile(w.export+"/echo", data, 0o700))
	w.ok(os.Chmod(w.export+"/echo", 0o711))
	if got := w.as(mail, "$M/echo hello; cat $M/echo || true"); !strings.HasPrefix(got, "hello") || !strings.Contains(got, "Permission denied") {
		w.Error(got)
	}
}

// locksOfUsers: who may open a file may lock it, for others too.
func locksOfUsers(w *world, options []string) {
	uid, gid := onServer(games, options)
	w.owned("lock", 0o644, uid, gid)
	if got := w.as(games, "flock -x $M/lock echo locked"); got != "locked" {
		w.Error(got)
	}
	cmd := w.worker(games, nil, "lock", w.point+"/lock")
	in, err := cmd.StdinPipe()
	w.ok(err)
	out, err := cmd.StdoutPipe()
	w.ok(err)
	w.ok(cmd.Start())
	if _, err := out.Read(make([]byte, 100)); err != nil {
		w.Fatalf("no lock: %v", err)
	}
	if got := w.as(mail, "flock -n -s $M/lock echo locked || echo busy"); got != "busy" {
		w.Errorf("while it is locked: %s", got)
	}
	w.ok(in.Close())
	w.ok(cmd.Wait())
	if got := w.as(mail, "flock -s $M/lock echo locked"); got != "locked" {
		w.Error(got)
	}
}

// TestChownByName: a file is given to who has that name there.
func TestChownByName(t *testing.T) {
	if !asRoot(t) {
		return
	}
	w := rightsWorld(t, "--run-as=caller,no_root_squash")
	w.mount("/", "allow_other", "idmap=name")
	w.owned("file", 0o644, 0, 0)
	path := w.point + "/file"
	w.ok(os.Chown(path, int(games.uid), int(mail.gid)))
	if got, want := owner(w, w.export+"/file"), both(games.suid, mail.sgid); got != want {
		w.Errorf("on the server it belongs to %s, want %s", got, want)
	}
	if got, want := owner(w, path), both(games.uid, mail.gid); got != want {
		w.Errorf("it is shown as %s's, want %s", got, want)
	}
	// lp exists here only; nobody has this number anywhere.
	if got := w.as(root, "chown lp $M/file || true; chgrp lp $M/file || true; chown 4000000 $M/file || true"); strings.Count(got, "Invalid argument") != 3 {
		w.Error(got)
	}
	w.ok(os.Chown(path, -1, 0))
	if got, want := owner(w, w.export+"/file"), both(games.suid, 0); got != want {
		w.Errorf("on the server it belongs to %s, want %s", got, want)
	}
}

// TestSetIDCleared: whoever is not root and changes a program takes its set-id
// bits away, in each mode, and sees so at once.
func TestSetIDCleared(t *testing.T) {
	if !asRoot(t) {
		return
	}
	for _, mode := range []string{"daemon", "account", "caller"} {
		t.Run(mode, func(t *testing.T) {
			w := rightsWorld(t, "--run-as="+mode)
			w.mount("/", "allow_other")
			for _, p := range []person{games, mail} {
				w.setIDCleared(p)
			}
		})
	}
}

func (w *world) setIDCleared(p person) {
	w.Helper()
	var paths []string
	for how := range changes {
		name := how + " by " + p.name
		w.owned(name, 0o777, games.uid, games.gid)
		w.ok(syscall.Chmod(w.export+"/"+name, 0o6777))
		paths = append(paths, name)
	}
	if out := w.does(p, "change", w.point, p.name); out != "" {
		w.Error(out)
	}
	for _, name := range paths {
		if got := mode(w, w.export+"/"+name); got != 0o777 {
			w.Errorf("after %s the mode is %o", name, got)
		}
	}
}

func mode(w *world, path string) uint32 {
	w.Helper()
	var st syscall.Stat_t
	w.ok(syscall.Lstat(path, &st))
	return st.Mode & 0o7777
}

// rightGiven: a right that was just given on the server counts at once, one
// that was taken away no longer than attributes are kept.
func rightGiven(w *world, options []string) {
	w.owned("given", 0o600, 0, 0)
	readable := func(want string) {
		w.Helper()
		if got := w.as(mail, "test -r $M/given && echo yes || echo no"); got != want {
			w.Errorf("readable: %s", got)
		}
	}
	readable("no")
	w.ok(os.Chmod(w.export+"/given", 0o604))
	readable("yes")
	w.ok(os.Chmod(w.export+"/given", 0o600))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if w.as(mail, "test -r $M/given && echo yes || echo no") == "no" {
			break
		}
		if time.Now().After(deadline) {
			w.Fatal("a right that was taken away is still there")
		}
	}
}
