package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/rpycfs/rpycfs/auth"
)

// passwd keeps a users file.
type passwd struct {
	File   string `short:"f" required:"" placeholder:"FILE" help:"The users file; made if it is missing."`
	List   bool   `short:"l" xor:"action" help:"List the users."`
	Add    string `short:"a" xor:"action" placeholder:"USER" help:"Add a user, or change one: a new password, and what the other flags say."`
	Delete string `short:"d" xor:"action" placeholder:"USER" help:"Delete a user."`

	PasswordFile   string   `placeholder:"FILE" help:"Take the new password from the first line of FILE."`
	KeepPassword   bool     `help:"Leave the password as it is; a new user has none and needs a key."`
	ReadOnly       *bool    `negatable:"" help:"The user may change nothing."`
	Trusted        *bool    `negatable:"" help:"The daemon believes the credentials that come with this user's calls."`
	NoRootSquash   *bool    `negatable:"" help:"Root among those credentials is root, and the user may act as root's account."`
	Root           *string  `placeholder:"SUBTREE" help:"All that the user sees of the export; empty for everything."`
	AuthorizedKeys *string  `placeholder:"FILE" help:"File of ssh keys that log the user in; empty for none."`
	Key            []string `placeholder:"FILE" help:"Public key (.pub) to add to the users file; may be repeated."`
}

// Run does the one action that is asked for.
func (p *passwd) Run(env *environment) error {
	switch {
	case p.List:
		return p.list(env)
	case p.Add != "":
		return p.add(env)
	case p.Delete != "":
		return p.delete()
	}
	return errors.New("passwd: say what to do: -l lists the users, -a USER adds or changes one, -d USER deletes one")
}

// list prints a line for each user, and on stderr what is wrong with their keys.
func (p *passwd) list(env *environment) error {
	users, err := auth.LoadUsers(p.File)
	if err != nil {
		return err
	}
	for _, problem := range users.Problems() {
		fmt.Fprintf(env.stderr, "rpycfs: %v\n", problem)
	}
	for _, u := range users.List() {
		if _, err := fmt.Fprintln(env.stdout, describe(&u)); err != nil {
			return err
		}
	}
	return nil
}

// describe is one line of the list.
func describe(u *auth.User) string {
	words := []string{u.Name}
	add := func(is bool, word string) {
		if is {
			words = append(words, word)
		}
	}
	add(u.HasPassword(), "password")
	add(len(u.Keys) > 0, fmt.Sprintf("keys=%d", len(u.Keys)))
	add(u.KeysFile != "", "authorized-keys="+u.KeysFile)
	add(u.ReadOnly, "read-only")
	add(u.Root != "", "root="+u.Root)
	add(u.Trusted, "trusted")
	add(u.NoRootSquash, "no-root-squash")
	return strings.Join(words, " ")
}

// add adds a user or changes one. The password is read before the file is
// locked: a person may take their time.
func (p *passwd) add(env *environment) error {
	if err := auth.CheckUserName(p.Add); err != nil {
		return err
	}
	keys, err := readKeys(p.Key)
	if err != nil {
		return err
	}
	var password string
	if !p.KeepPassword {
		if password, err = newPassword(env, p.Add, p.PasswordFile); err != nil {
			return err
		}
	} else if p.PasswordFile != "" {
		return errors.New("--keep-password and --password-file contradict each other")
	}
	return auth.EditUsers(p.File, func(users *auth.Users) error {
		user, _ := users.Lookup(p.Add)
		user.Name = p.Add
		p.apply(&user)
		for _, k := range keys {
			user.Keys = addKey(user.Keys, k)
		}
		if err := users.Add(user); err != nil || p.KeepPassword {
			return err
		}
		return users.SetPassword(p.Add, password)
	})
}

// apply sets what the flags state and leaves the rest.
func (p *passwd) apply(u *auth.User) {
	if p.ReadOnly != nil {
		u.ReadOnly = *p.ReadOnly
	}
	if p.Trusted != nil {
		u.Trusted = *p.Trusted
	}
	if p.NoRootSquash != nil {
		u.NoRootSquash = *p.NoRootSquash
	}
	if p.Root != nil {
		u.Root = *p.Root
	}
	if p.AuthorizedKeys != nil {
		u.KeysFile = *p.AuthorizedKeys
	}
}

// readKeys reads public key files of one key each.
func readKeys(paths []string) ([]auth.AuthorizedKey, error) {
	var keys []auth.AuthorizedKey
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		line := strings.TrimSpace(string(text))
		if strings.Contains(line, "\n") {
			return nil, fmt.Errorf("%s: more than one line; name the file with --authorized-keys", path)
		}
		k, err := auth.ParseAuthorizedKey(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// addKey adds k unless it is there.
func addKey(keys []auth.AuthorizedKey, k auth.AuthorizedKey) []auth.AuthorizedKey {
	for _, old := range keys {
		if string(old.Key.Marshal()) == string(k.Key.Marshal()) {
			return keys
		}
	}
	return append(keys, k)
}

func (p *passwd) delete() error {
	if _, err := os.Stat(p.File); err != nil {
		return err
	}
	return auth.EditUsers(p.File, func(users *auth.Users) error {
		if !users.Delete(p.Delete) {
			return fmt.Errorf("%s: no user %q", p.File, p.Delete)
		}
		return nil
	})
}
