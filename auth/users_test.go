package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// usersText is a users file with everything in it.
func usersText(t testing.TB) string {
	return `# our people

# the first
[alice]
# changed in May
password = ` + aliceVerifier().String() + `
root = projects/alice's own
trusted = yes
no-root-squash = yes
key = ` + vectorKey + `
key = ` + (AuthorizedKey{Key: testSigner(3).PublicKey()}).String() + `

[bob-2.x]
read-only = yes
authorized-keys = bob.keys

[nothing]
# end
`
}

// TestUsersFile reads, looks up, writes and reads again.
func TestUsersFile(t *testing.T) {
	path := tempFile(t, "users", usersText(t))
	keys := filepath.Join(filepath.Dir(path), "bob.keys")
	if err := os.WriteFile(keys, []byte("# mine\n\n"+vectorKey+"\nrestrict "+vectorKey+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	u, err := LoadUsers(path)
	if err != nil {
		t.Fatal(err)
	}
	alice, ok := u.Lookup("alice")
	if !ok || alice.Root != "projects/alice's own" || !alice.Trusted || !alice.NoRootSquash || alice.ReadOnly || len(alice.Keys) != 2 || !alice.HasPassword() {
		t.Errorf("alice: %+v", alice)
	}
	bob, ok := u.Lookup("bob-2.x")
	if !ok || !bob.ReadOnly || bob.HasPassword() || len(bob.filed) != 1 {
		t.Errorf("bob: %+v", bob)
	}
	if p := u.Problems(); len(p) != 1 || !strings.Contains(p[0].Error(), "bob.keys:4") {
		t.Errorf("problems: %v", p)
	}
	vector, err := ParseAuthorizedKey(vectorKey)
	if err != nil {
		t.Fatal(err)
	}
	if !u.accepts("alice", vector.Key) || !u.accepts("bob-2.x", vector.Key) || u.accepts("nothing", vector.Key) || u.accepts("nobody", vector.Key) {
		t.Error("whose key is it?")
	}
	if _, ok := u.Lookup("ALICE"); ok {
		t.Error("names do not depend on case")
	}
	again := filepath.Join(t.TempDir(), "again")
	if err := u.Save(again); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(usersText(t)) {
		if !strings.Contains(string(text), line) {
			t.Errorf("%q was lost", line)
		}
	}
	if info, err := os.Stat(again); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	v, err := LoadUsers(again)
	if err != nil || string(v.format()) != string(text) {
		t.Errorf("%v; %q became %q", err, text, v.format())
	}
}

// TestUsersFileErrors: every mistake is named with its line.
func TestUsersFileErrors(t *testing.T) {
	good := aliceVerifier().String()
	for text, want := range map[string]string{
		"read-only = yes\n":                      ":1: a setting before",
		"[a]\n\n[a]\n":                           ":3: user a stands here twice",
		"[a b]\n":                                ":1: a user's name",
		"[.a]\n":                                 ":1: a user's name",
		"[]\n":                                   ":1: a user's name",
		"[a]x\n":                                 ":1: a user's header",
		"[" + strings.Repeat("x", 65) + "]\n":    ":1: a user's name",
		"[a]\nread-only\n":                       ":2: neither",
		"[a]\nread-only = maybe\n":               ":2: read-only: not yes or no",
		"[a]\nread-only = yes\nread-only = no\n": ":3: read-only stands here twice",
		"[a]\nshell = /bin/sh\n":                 ":2: unknown setting",
		"[a]\nroot =\n":                          ":2: root has no value",
		"[a]\nroot = ../x\n":                     ":2: root \"../x\"",
		"[a]\nroot = /x\n":                       ":2: root \"/x\"",
		"[a]\nroot = x/\n":                       ":2: root \"x/\"",
		"[a]\nroot = .\n":                        ":2: root \".\"",
		"[a]\nroot = a//b\n":                     ":2: root",
		"[a]\npassword = secret\n":               ":2: password: verifier is not",
		"[a]\npassword = " + good[:len(good)-1] + "\n": ":2: password: verifier needs keys",
		"[a]\nkey = no key\n":                          ":2: key:",
		"[a]\nkey = ssh-dss " + vectorKey[12:] + "\n":  ":2: key: does not begin",
		"[a]\nkey = command=\"x\" " + vectorKey + "\n": ":2: key: does not begin",
		"[a]\nkey = ssh-rsa " + vectorKey[12:] + "\n":  ":2: key: the key is of another type",
		"[a]\n[b]\n\x00\n":                             ":3: control character",
		"[a]\r[b]\n":                                   ":1: control character",
		"[a]\nREAD-ONLY = yes\n":                       ":2: unknown setting",
	} {
		if _, err := parseUsers("users", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), "users"+want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestUsersFileModes: what others can read or write is refused.
func TestUsersFileModes(t *testing.T) {
	path := tempFile(t, "users", "[a]\n")
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o601, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadUsers(path)
		edited := EditUsers(path, func(*Users) error { return nil })
		for _, err := range []error{err, edited} {
			if err == nil || !strings.Contains(err.Error(), "chmod 600") || !strings.Contains(err.Error(), path) {
				t.Errorf("mode %o: %v", mode, err)
			}
		}
	}
	if _, err := LoadUsers(filepath.Dir(path)); err == nil {
		t.Error("a directory is a users file")
	}
	if _, err := LoadUsers(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestAuthorizedKeysFile: one that others can write is not used; a missing one
// has no keys.
func TestAuthorizedKeysFile(t *testing.T) {
	path := tempFile(t, "keys", vectorKey+"\n")
	for mode, want := range map[fs.FileMode]int{0o600: 1, 0o644: 1, 0o664: 0, 0o646: 0} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		keys, problems := loadAuthorizedKeys(path)
		if len(keys) != want || len(problems) != 1-want {
			t.Errorf("mode %o: %d keys, %v", mode, len(keys), problems)
		}
	}
	if keys, problems := loadAuthorizedKeys(path + "x"); keys != nil || problems != nil {
		t.Errorf("missing: %v, %v", keys, problems)
	}
	secret := tempFile(t, "secret", "root:$6$hash\n")
	if _, problems := loadAuthorizedKeys(secret); len(problems) != 1 || strings.Contains(fmt.Sprint(problems), "hash") || strings.Contains(fmt.Sprint(problems), "root:") {
		t.Errorf("the file's text is told: %v", problems)
	}
}

// TestEditUsers: edits do not lose each other, and a failed one changes nothing.
func TestEditUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := EditUsers(path, func(u *Users) error { return u.Add(User{Name: fmt.Sprint("u", i)}) }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	u, err := LoadUsers(path)
	if err != nil || len(u.List()) != 20 {
		t.Fatalf("%d users, %v", len(u.List()), err)
	}
	before, _ := os.ReadFile(path)
	failed := errors.New("no")
	if err := EditUsers(path, func(u *Users) error { u.Delete("u1"); return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("a failed edit changed the file")
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := EditUsers(fresh, func(*Users) error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(fresh)); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := EditUsers(link, func(u *Users) error { u.Delete("u1"); return nil }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Error("the symlink was replaced")
	}
	if u, err := LoadUsers(path); err != nil || len(u.List()) != 19 {
		t.Errorf("edit through a symlink: %v", err)
	}
}

// TestDelete keeps comments and order.
func TestDelete(t *testing.T) {
	u, err := parseUsers("users", []byte("# all\n[a]\n[b]\n# of c\n[c]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !u.Delete("a") || u.Delete("a") || !u.Delete("c") {
		t.Error("deleted")
	}
	if got, want := string(u.format()), "# all\n[b]\n\n# of c\n"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
	if !u.Delete("b") || strings.Contains(string(u.format()), "[") {
		t.Errorf("%q", u.format())
	}
}

// TestAdd changes a user without touching the password.
func TestAdd(t *testing.T) {
	u := testUsers(t)
	if err := u.Add(User{Name: "alice", Root: "sub"}); err != nil {
		t.Fatal(err)
	}
	alice, _ := u.Lookup("alice")
	if !alice.HasPassword() || alice.Root != "sub" || u.accepts("alice", testSigner(1).PublicKey()) {
		t.Errorf("%+v", alice)
	}
	for _, bad := range []User{{}, {Name: "a/b"}, {Name: "a", Root: "../x"}, {Name: "a", KeysFile: "x\ny"},
		{Name: "a", Keys: []AuthorizedKey{{Key: testSigner(1).PublicKey(), Comment: "x\n[root]"}}}} {
		if err := u.Add(bad); err == nil {
			t.Errorf("%+v was added", bad)
		}
	}
	if err := u.SetPassword("-x", "y"); err == nil {
		t.Error("a name that is none")
	}
	if err := u.SetPassword("x", ""); err == nil {
		t.Error("an empty password")
	}
	if err := u.SetPassword("x", strings.Repeat("y", MaxPassword+1)); err == nil {
		t.Error("an endless password")
	}
	if err := u.SetPassword("carol", "pass\U0001F600word"); err != nil { // no SASLprep for that
		t.Fatal(err)
	}
	var names []string
	for _, user := range u.List() {
		names = append(names, user.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"alice", "bob", "carol"}) {
		t.Error(names)
	}
	s, _ := testServer(t)
	s.Users = u
	c := testClient(t)
	c.User, c.scram, c.Password = "carol", nil, func() (string, error) { return "pass\U0001F600word", nil }
	mustLogin(t, s, c)
}

// TestRefresh: changed files count at the next log-in after a second, and broken
// ones change nothing.
func TestRefresh(t *testing.T) {
	path := tempFile(t, "users", "[a]\nauthorized-keys = keys\n")
	keys := filepath.Join(filepath.Dir(path), "keys")
	vector, err := ParseAuthorizedKey(vectorKey)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		u, err := LoadUsers(path)
		if err != nil {
			t.Fatal(err)
		}
		refresh := func(want bool) {
			t.Helper()
			time.Sleep(refreshInterval)
			if did, err := u.refresh(); did != want || err != nil {
				t.Fatalf("reloaded %v, %v", did, err)
			}
		}
		refresh(false)
		if err := os.WriteFile(keys, []byte(vectorKey), 0o600); err != nil {
			t.Fatal(err)
		}
		if did, _ := u.refresh(); did {
			t.Error("looked twice within a second")
		}
		refresh(true)
		if !u.accepts("a", vector.Key) {
			t.Error("the new key is not known")
		}
		if err := EditUsers(path, func(u *Users) error { return u.Add(User{Name: "b"}) }); err != nil {
			t.Fatal(err)
		}
		refresh(true)
		if _, ok := u.Lookup("b"); !ok {
			t.Error("the new user is not known")
		}
		if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshInterval)
		if _, err := u.refresh(); err == nil {
			t.Error("rubbish was taken")
		}
		if _, ok := u.Lookup("b"); !ok {
			t.Error("the users are gone")
		}
	})
}

func FuzzUsersFile(f *testing.F) {
	addAll(f, []string{usersText(f), "[a]\nread-only = no\nroot = a/b\n# x\n", "# only\n", "[a]\n# c\n[b]\n"})
	f.Fuzz(func(t *testing.T, text []byte) {
		u, err := parseUsers("users", text)
		if err != nil {
			return
		}
		once := u.format()
		again, err := parseUsers("users", once)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, once, err)
		}
		if twice := again.format(); string(twice) != string(once) {
			t.Errorf("%q became %q", once, twice)
		}
		if !slices.EqualFunc(u.List(), again.List(), func(a, b User) bool {
			return a.Name == b.Name && a.Root == b.Root && a.ReadOnly == b.ReadOnly && a.Trusted == b.Trusted && a.NoRootSquash == b.NoRootSquash &&
				a.KeysFile == b.KeysFile && len(a.Keys) == len(b.Keys) && a.HasPassword() == b.HasPassword()
		}) {
			t.Errorf("%q: users differ", text)
		}
		for _, user := range u.List() {
			if user.Root != "" && !filepath.IsLocal(user.Root) {
				t.Errorf("root %q leads out", user.Root)
			}
		}
	})
}

func FuzzAuthorizedKeys(f *testing.F) {
	addAll(f, []string{vectorKey, "# x\n" + vectorKey + "\n" + vectorKey, `from="10.0.0.1" ` + vectorKey,
		"sk-ssh-ed25519@openssh.com AAAA", (AuthorizedKey{Key: testSigner(1).PublicKey(), Comment: "a b"}).String()})
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, _ := parseAuthorizedKeys("keys", text)
		for _, k := range keys {
			again, err := ParseAuthorizedKey(k.String())
			if err != nil || again.String() != k.String() {
				t.Errorf("%q became %q, %v", k, again, err)
			}
		}
	})
}

func FuzzKnownHosts(f *testing.F) {
	key := testKey(f, 1).PublicKey()
	line := "[h]:1 " + (AuthorizedKey{Key: key}).String()
	addAll(f, []string{line, "@revoked " + line, "@cert-authority " + line, "|1|AAAA|AAAA " + vectorKey, "*,!x " + vectorKey, "# x"})
	path := filepath.Join(f.TempDir(), "known_hosts")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		before := checkKnownHosts(path, "h:1", key)
		if !errors.Is(before, ErrHostKeyUnknown) {
			return
		}
		if err := recordKnownHost(path, "h:1", key); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if err := checkKnownHosts(path, "h:1", key); err != nil {
			t.Errorf("%q: recorded, but %v", text, err)
		}
	})
}
