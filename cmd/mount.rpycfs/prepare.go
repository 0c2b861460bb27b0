package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/internal/login"
	"github.com/rpycfs/rpycfs/internal/mountopt"
	"github.com/rpycfs/rpycfs/internal/mounts"
	"github.com/rpycfs/rpycfs/mount"
	"github.com/rpycfs/rpycfs/rpc"
)

// job is all that the process in the background needs. It goes to it through a
// pipe: arguments and environment can be read by others.
type job struct {
	Source string // as shown
	Path   []string
	Dir    string // absolute, without symlinks

	login.Person
	Others []string      // further addresses of the daemon
	Timeo  time.Duration // 0: the usual ones
	Soft   bool

	Compress rpc.Compress

	Flags      uintptr
	ACL        *bool
	AllowOther bool
	NoLock     bool
	NoInotify  bool
	IDs        mount.IDs
	Fusermount bool
	Log        string // absolute, or ""
	Foreground bool
	Verbose    bool
}

// mappings are the values of idmap=.
var mappings = map[string]mount.Mapping{
	"": mount.MapDefault, "self": mount.MapSelf, "raw": mount.MapRaw, "name": mount.MapName,
}

// compressions are the values of compress=.
var compressions = map[string]rpc.Compress{
	"": rpc.CompressAuto, "auto": rpc.CompressAuto, "on": rpc.CompressOn, "off": rpc.CompressOff,
}

// prepare checks all that can be checked without the network.
func prepare(a *mountopt.Args) (*job, error) {
	o := a.Options
	src, err := mountopt.ParseSource(a.Source)
	if err != nil {
		return nil, err
	}
	j := &job{
		Source: src.String(), Path: src.Path,
		Person: login.Person{
			Address:    net.JoinHostPort(src.Host, strconv.Itoa(o.Port)),
			Identities: o.Identities, Fingerprint: o.Fingerprint, HostKey: o.HostKey, Hints: hints,
		},
		Others: o.Addresses(), Timeo: o.Timeo, Soft: o.Soft, Compress: compressions[o.Compress], Flags: o.Flags, ACL: o.ACL, AllowOther: o.AllowOther, NoLock: o.NoLock, NoInotify: o.NoInotify,
		Fusermount: os.Geteuid() != 0, Foreground: o.Foreground, Verbose: a.Verbose,
		IDs: mount.IDs{
			Map: mappings[o.IDMap], LocalUID: uint32(os.Getuid()), LocalGID: uint32(os.Getgid()),
			UID: o.UID, GID: o.GID, Umask: o.Umask,
		},
	}
	if err := j.credentials(o, src.User); err != nil {
		return nil, err
	}
	if j.KnownHosts, err = login.KnownHosts(o.KnownHosts); err != nil {
		return nil, fail(exitUsage, "no home directory for known hosts; give knownhosts=FILE")
	}
	for _, p := range append([]*string{&j.Log}, pointers(j.Identities)...) {
		if p == &j.Log {
			*p = o.Log
		}
		if *p != "" {
			if *p, err = filepath.Abs(*p); err != nil {
				return nil, fail(exitSystem, "%w", err)
			}
		}
	}
	for _, path := range j.Identities {
		if err := unix.Access(path, unix.R_OK); err != nil {
			return nil, fail(exitUsage, "option identity: cannot read %s: %w", path, err)
		}
	}
	if j.Dir, err = mountPoint(a.Dir); err != nil {
		return nil, err
	}
	return j, checkMachine(j.Fusermount)
}

func pointers(s []string) (p []*string) {
	for i := range s {
		p = append(p, &s[i])
	}
	return p
}

// credentials decides who logs in and with which password, as far as that is
// written somewhere. What is said more directly wins.
func (j *job) credentials(o *mountopt.Options, sourceUser string) error {
	if sourceUser != "" && o.User != "" && sourceUser != o.User {
		return fail(exitUsage, "two users to log in as: %s in the source, %s in the options", sourceUser, o.User)
	}
	j.User = sourceUser
	if o.User != "" {
		j.User = o.User
	}
	j.Password, j.HasPassword = o.Password, o.HasPassword
	if o.Credentials != "" {
		c, err := mountopt.ReadCredentials(o.Credentials)
		if err != nil {
			return secretError("credentials", err)
		}
		if j.User == "" {
			j.User = c.User
		}
		if !j.HasPassword {
			j.Password, j.HasPassword = c.Password, c.HasPassword
		}
	}
	var err error
	if !j.HasPassword {
		if j.Password, j.HasPassword, err = login.Password(o.PasswordFile); err != nil {
			return secretError("password-file", err)
		}
	}
	if j.User == "" {
		if j.User, err = login.UserName(); err != nil {
			return fail(exitUsage, "no user name: %w; give user@host:/path", err)
		}
	}
	return nil
}

func secretError(option string, err error) error {
	if errors.Is(err, mountopt.ErrUsage) {
		return fail(exitUsage, "option %s: %w", option, err)
	}
	return fail(exitUsage, "option %s: cannot read the file: %w", option, err)
}

// mountPoint resolves the mount point. The mount table is looked at first: a
// mount that does not answer must not stop us.
func mountPoint(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fail(exitSystem, "%w", err)
	}
	if err := notMounted(abs); err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, syscall.ENOTCONN) {
		return "", staleMount(dir)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fail(exitMount, "mount point %s does not exist; make the directory first", dir)
	case err != nil:
		return "", fail(exitMount, "mount point %s: %w", dir, err)
	}
	if err := notMounted(real); err != nil {
		return "", err
	}
	info, err := os.Stat(real)
	if errors.Is(err, syscall.ENOTCONN) {
		return "", staleMount(dir)
	}
	if err != nil {
		return "", fail(exitMount, "mount point %s: %w", dir, err)
	}
	if !info.IsDir() {
		return "", fail(exitMount, "mount point %s is not a directory", dir)
	}
	return real, nil
}

// notMounted refuses a directory that has a mount of ours on top. One whose process
// is gone is taken away.
func notMounted(dir string) error {
	for {
		m, err := mounts.At(dir)
		if err != nil || m.Type != mounts.FSType {
			return nil
		}
		if !mounts.Stale(m) {
			return fail(exitMount, "mount point %s is busy: %s is mounted there; unmount it first", dir, m.Source)
		}
		if err := mounts.Clear(m); err != nil {
			return fail(exitMount, "mount point %s: the process behind %s, which is mounted there, is gone, and it cannot be unmounted: %w", dir, m.Source, err)
		}
	}
}

// staleMount says that a directory lies in a mount whose process is gone, and which is
// not ours to take away: another program's, or above the directory.
func staleMount(dir string) error {
	what := "a mount"
	if m, err := mounts.Above(dir); err == nil {
		what = fmt.Sprintf("%s, a mount of type %s on %s,", m.Source, m.Type, m.Point)
	}
	return fail(exitMount, "mount point %s lies in %s whose process is gone; unmount that with: umount -l", dir, what)
}

// checkMachine looks for what mounting needs.
func checkMachine(fusermount bool) error {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fail(exitSystem, "this machine has no FUSE: /dev/fuse: %w; try: modprobe fuse", errors.Unwrap(err))
	}
	if !fusermount {
		return nil
	}
	if _, err := mounts.FusermountPath(); err != nil {
		return fail(exitSystem, "%w", err)
	}
	// The helper opens the device with the user's rights.
	if unix.Access("/dev/fuse", unix.R_OK|unix.W_OK) != nil {
		return fail(exitSystem, "/dev/fuse may not be used by ordinary users here; root can allow it with: chmod 666 /dev/fuse")
	}
	return nil
}
