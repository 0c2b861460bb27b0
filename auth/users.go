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
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// MaxUserName bounds a user's name, in bytes.
const MaxUserName = 64

// User is somebody who may log in, and what they may do.
type User struct {
	Name     string
	ReadOnly bool   // may change nothing
	Root     string // subtree of the export: slash-separated, relative, without ".."; "" is all of it
	Trusted  bool   // the daemon believes the credentials that come with the calls

	// NoRootSquash lets root among those credentials be root, and lets the user
	// act as an account with user id 0.
	NoRootSquash bool

	KeysFile string          // an authorized_keys file; relative to the users file
	Keys     []AuthorizedKey // keys that stand in the users file itself

	verifier *verifier // nil: no password
	filed    []AuthorizedKey
	above    []string // comment lines before the section's header
	inside   []string // comment lines within the section
}

// HasPassword reports whether the user can log in by password.
func (u *User) HasPassword() bool { return u.verifier != nil }

// CheckUserName reports why name cannot be a user's name, or nil. A name has 1
// to MaxUserName letters, digits, "_", "." and "-" of ASCII, and does not begin
// with "." or "-".
func CheckUserName(name string) error {
	if name == "" || len(name) > MaxUserName {
		return fmt.Errorf("a user's name has 1 to %d characters", MaxUserName)
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case (c == '.' || c == '-') && i > 0:
		default:
			return fmt.Errorf("a user's name consists of letters, digits, \"_\", and after the first also \".\" and \"-\"; %q does not", name)
		}
	}
	return nil
}

// checkRoot reports why root cannot be a user's subtree, or nil.
func checkRoot(root string) error {
	if root == "" {
		return nil
	}
	if !fs.ValidPath(root) || root == "." || strings.ContainsFunc(root, func(r rune) bool { return r < ' ' || r == 0x7f }) ||
		strings.TrimSpace(root) != root {
		return fmt.Errorf("root %q is not a relative path without \".\", \"..\" and empty parts", root)
	}
	return nil
}

// check reports why the user cannot be added, or nil.
func (u *User) check() error {
	if err := CheckUserName(u.Name); err != nil {
		return err
	}
	if err := checkRoot(u.Root); err != nil {
		return err
	}
	if strings.ContainsAny(u.KeysFile, "\n\r\x00") || strings.TrimSpace(u.KeysFile) != u.KeysFile {
		return fmt.Errorf("authorized-keys %q has line breaks or spaces around it", u.KeysFile)
	}
	for _, k := range u.Keys {
		if err := checkPublicKey(k.Key); err != nil {
			return err
		}
		if strings.ContainsAny(k.Comment, "\n\r\x00") {
			return errors.New("the comment of a key has more than one line")
		}
	}
	return nil
}

// Users is the set of those who may log in. It is safe for concurrent use.
type Users struct {
	reloading sync.Mutex // held by one reload; before mu

	mu       sync.RWMutex // guards what follows
	path     string       // of the users file; "" if there is none
	users    map[string]*User
	keys     map[userKey]bool
	order    []string // names in the order of the file
	tail     []string // comment lines at the end
	problems []error
	stamps   map[string]stamp // of the files that were read
	looked   time.Time        // when the stamps were last compared
}

// userKey is one user's right to log in by one key. All of them stand in one
// map, so that a look-up takes the same time whoever exists.
type userKey struct {
	user string
	key  keyID
}

// index builds the map of keys anew. Callers hold mu.
func (u *Users) index() {
	u.keys = make(map[userKey]bool)
	for name, user := range u.users {
		for _, k := range slices.Concat(user.Keys, user.filed) {
			u.keys[userKey{name, idOf(k.Key)}] = true
		}
	}
}

// NewUsers returns an empty set that belongs to no file.
func NewUsers() *Users { return &Users{users: make(map[string]*User)} }

// LoadUsers reads a users file and the authorized_keys files that it names. A
// users file that others can read or write is refused. What is wrong with an
// authorized_keys file is found in Problems instead, so that one user's slip
// locks nobody else out.
func LoadUsers(path string) (*Users, error) {
	u := NewUsers()
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	u.path = path
	return u, u.Reload()
}

// Reload reads the files again. After an error the users are what they were.
func (u *Users) Reload() error {
	u.reloading.Lock()
	defer u.reloading.Unlock()
	if u.path == "" {
		return nil
	}
	stamps := map[string]stamp{u.path: stampOf(u.path)}
	text, err := readPrivate(u.path, 0o077, "the password verifiers")
	if err != nil {
		return err
	}
	parsed, err := parseUsers(u.path, text)
	if err != nil {
		return err
	}
	parsed.readKeyFiles(u.path, stamps)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.users, u.order, u.tail = parsed.users, parsed.order, parsed.tail
	u.problems, u.stamps, u.looked = parsed.problems, stamps, time.Now()
	u.index()
	return nil
}

// readKeyFiles reads the authorized_keys files of all users.
func (u *Users) readKeyFiles(usersFile string, stamps map[string]stamp) {
	for _, name := range u.order {
		user := u.users[name]
		if user.KeysFile == "" {
			continue
		}
		path := user.KeysFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(usersFile), path)
		}
		stamps[path] = stampOf(path)
		keys, problems := loadAuthorizedKeys(path)
		user.filed = keys
		u.problems = append(u.problems, problems...)
	}
}

// Problems returns what was wrong with authorized_keys files at the last load:
// the lines and files that were ignored.
func (u *Users) Problems() []error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return slices.Clone(u.problems)
}

// refreshInterval is how often the files are looked at for changes at most.
const refreshInterval = time.Second

// refresh reloads when a file has changed, so that "rpycfs passwd" and an edited
// authorized_keys file take effect without a signal. It does the same work
// whoever logs in. It reports whether it reloaded.
func (u *Users) refresh() (bool, error) {
	u.mu.Lock()
	due := u.path != "" && time.Since(u.looked) >= refreshInterval
	if due {
		u.looked = time.Now()
	}
	stamps := u.stamps
	u.mu.Unlock()
	if !due {
		return false, nil
	}
	for path, old := range stamps {
		if stampOf(path) != old {
			return true, u.Reload()
		}
	}
	return false, nil
}

// Refresh reads the files again if they have changed. It looks at them once a
// second at most. After an error the users are what they were.
func (u *Users) Refresh() error {
	_, err := u.refresh()
	return err
}

// stamp changes when a file does.
type stamp struct {
	inode        uint64
	size         int64
	mtime, ctime syscall.Timespec
	present      bool
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{present: !errors.Is(err, fs.ErrNotExist)}
	}
	st := info.Sys().(*syscall.Stat_t)
	return stamp{inode: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim, present: true}
}

// Lookup returns the user of that name.
func (u *Users) Lookup(name string) (User, bool) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if user, ok := u.users[name]; ok {
		return *user, true
	}
	return User{}, false
}

// List returns all users in the order of the file.
func (u *Users) List() []User {
	u.mu.RLock()
	defer u.mu.RUnlock()
	list := make([]User, 0, len(u.order))
	for _, name := range u.order {
		list = append(list, *u.users[name])
	}
	return list
}

// Add adds a user, or changes the one of that name. The password stays what it
// was unless the user comes from a Lookup. For a set without a file, the
// authorized_keys file is read at once.
func (u *Users) Add(user User) error {
	if err := user.check(); err != nil {
		return err
	}
	user.Keys = slices.Clone(user.Keys)
	if user.KeysFile != "" && filepath.IsAbs(user.KeysFile) {
		user.filed, _ = loadAuthorizedKeys(user.KeysFile)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if old, ok := u.users[user.Name]; !ok {
		u.order = append(u.order, user.Name)
	} else if user.verifier == nil {
		user.verifier, user.above, user.inside = old.verifier, old.above, old.inside
	}
	u.users[user.Name] = &user
	u.index()
	return nil
}

// SetPassword sets the password of a user, who is added if unknown. It takes a
// good part of a second, since it derives the verifier; nothing else is kept.
func (u *Users) SetPassword(name, password string) error {
	if err := CheckUserName(name); err != nil {
		return err
	}
	v, err := newVerifier(password)
	if err != nil {
		return err
	}
	u.setVerifier(name, v)
	return nil
}

func (u *Users) setVerifier(name string, v *verifier) {
	u.mu.Lock()
	defer u.mu.Unlock()
	user := User{Name: name}
	if old, ok := u.users[name]; ok {
		user = *old
	} else {
		u.order = append(u.order, name)
	}
	user.verifier = v
	u.users[name] = &user
}

// Delete removes a user and reports whether there was one.
func (u *Users) Delete(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	user, ok := u.users[name]
	if !ok {
		return false
	}
	i := slices.Index(u.order, name)
	if i+1 < len(u.order) { // comments above a header may be about what follows
		next := *u.users[u.order[i+1]]
		next.above = slices.Concat(user.above, next.above)
		u.users[next.Name] = &next
	} else {
		u.tail = slices.Concat(user.above, u.tail)
	}
	delete(u.users, name)
	u.order = slices.Delete(u.order, i, i+1)
	u.index()
	return true
}

// passwordOf returns the verifier of a user, or the fake one of somebody who
// cannot log in by password. It costs the same for both.
func (u *Users) passwordOf(name string, fakes []byte) (v *verifier, real bool) {
	fake := fakeVerifier(fakes, name)
	u.mu.RLock()
	defer u.mu.RUnlock()
	if user, ok := u.users[name]; ok && user.verifier != nil {
		return user.verifier, true
	}
	return fake, false
}

// accepts reports whether key logs in the user.
func (u *Users) accepts(name string, key ssh.PublicKey) bool {
	id := idOf(key)
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.keys[userKey{name, id}]
}
