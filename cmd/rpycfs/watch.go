package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/clean"
	"github.com/rpycfs/rpycfs/internal/login"
	"github.com/rpycfs/rpycfs/internal/mountopt"
	"github.com/rpycfs/rpycfs/rpc"
	"github.com/rpycfs/rpycfs/watch"
)

// watchOf is rpycfs watch.
type watchOf struct {
	Source    string `arg:"" placeholder:"[USER@]HOST:/PATH" help:"The directory, as it would be mounted."`
	Recursive bool   `short:"r" help:"All that is below as well."`
	JSON      bool   `name:"json" help:"Print JSON, one object per line."`
	Port      uint16 `default:"19912" placeholder:"PORT" help:"Where the server listens (19912)."`
	loginFlags
}

// Run prints what happens until it is interrupted, or the directory is gone.
func (o *watchOf) Run(env *environment) error {
	src, err := mountopt.ParseSource(o.Source)
	if err != nil {
		return err
	}
	c, err := o.connect(env, src)
	if err != nil {
		return err
	}
	err = o.follow(env, c, src)
	c.Close() // what is left to say has been said
	if env.ctx.Err() != nil {
		return nil
	}
	return err
}

// connect logs in and begins to watch.
func (o *watchOf) connect(env *environment, src mountopt.Source) (*watch.Client, error) {
	if o.Port == 0 {
		return nil, &failure{exitUsage, errors.New("--port: 0 is no port")}
	}
	p, err := o.person(src.User, net.JoinHostPort(src.Host, fmt.Sprint(o.Port)))
	if err != nil {
		return nil, err
	}
	terminal := login.OpenTerminal()
	defer terminal.Close()
	var refused error
	c, err := login.Connect(env.ctx, p, terminal, o.Timeout, func(ctx context.Context, a *auth.Client) (*watch.Client, error) {
		a.Warn = func(err error) { env.warn("%w", err) }
		c, err := watch.Dial(ctx, watch.Config{Address: p.Address, Auth: a, Path: src.Path, Recursive: o.Recursive})
		refused = whyNot(src, err)
		return c, err
	})
	if refused != nil {
		err = refused
	}
	return c, err
}

// whyNot says why the server does not let a directory be watched; nil if it was not
// that.
func whyNot(src mountopt.Source, err error) error {
	if errors.Is(err, watch.ErrNoWatch) {
		return fmt.Errorf("watch %s: %w", src, err)
	}
	if !errors.As(err, new(*rpc.Error)) {
		return nil
	}
	for errno, why := range map[syscall.Errno]string{
		syscall.ENOENT: "there is no such directory", syscall.ESTALE: "there is no such directory",
		syscall.ENOTDIR: "that is no directory; watch the one it is in",
		syscall.ELOOP:   "there is a symbolic link in the path; give the path without",
		syscall.EACCES:  "you may not read and search that directory",
		syscall.EMFILE:  "this user has as many watches as the server allows; end one",
		syscall.ENFILE:  "the server has as many watches as it allows; try later",
		syscall.ENOSPC:  "the server cannot watch so many directories; raise fs.fanotify.max_user_marks and fs.inotify.max_user_watches there, or run rpycfsd as root",
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("watch %s: %s", src, why)
		}
	}
	return nil
}

// follow prints events.
func (o *watchOf) follow(env *environment, c *watch.Client, src mountopt.Source) error {
	show := &watchPrinter{printer: printer{out: env.stdout, json: o.JSON}}
	if err := o.start(env, show, src, c.Unseen()); err != nil {
		return err
	}
	for {
		ev, err := c.Next(env.ctx)
		if err != nil {
			return err
		}
		if err := show.event(&ev); err != nil {
			return err
		}
		if ev.Kind == fsproto.WatchEnd {
			return fmt.Errorf("watch %s: ended: %s", src, endReason(ev.Error))
		}
	}
}

// start tells that the watch stands: what happens from now on is printed.
func (o *watchOf) start(env *environment, show *watchPrinter, src mountopt.Source, unseen string) error {
	if unseen != "" {
		env.warn("watch: what programs on the server change is not seen, only what clients do: %s", unseen)
	}
	if o.JSON {
		return show.object(jsonWatchStart{Version: jsonWatchVersion, Kind: "start", Source: src.String(), Recursive: o.Recursive, Unseen: unseen})
	}
	env.warn("watching %s", src)
	return nil
}

// endReason says why a watch has ended.
func endReason(errno uint32) string {
	switch syscall.Errno(errno) {
	case unix.ENOENT, unix.ESTALE, unix.ENOTDIR, unix.ELOOP:
		return "the directory was removed or moved away"
	case unix.EACCES:
		return "you may not read and search the directory any longer"
	case unix.ENOSPC:
		return "the server cannot watch so many directories"
	}
	return syscall.Errno(errno).Error()
}

// watchPrinter prints events, for people or for programs.
type watchPrinter struct{ printer }

var watchKinds = map[uint8]string{
	fsproto.WatchCreate: "create", fsproto.WatchModify: "modify", fsproto.WatchAttrib: "attrib", fsproto.WatchDelete: "delete",
	fsproto.WatchRename: "rename", fsproto.WatchCloseWrite: "close-write", fsproto.WatchOverflow: "overflow", fsproto.WatchEnd: "end",
}

func (p *watchPrinter) event(ev *watch.Event) error {
	if p.json {
		return p.object(jsonOf(ev))
	}
	_, err := io.WriteString(p.out, watchText(ev))
	return err
}

// watchText is an event as a person reads it, with the end of its line.
func watchText(ev *watch.Event) string {
	var b strings.Builder
	b.WriteString(timeOf(ev.Time).Local().Format("15:04:05.000 ") + fmt.Sprintf("%-11s", watchKinds[ev.Kind]))
	path, old := shown(ev, fsproto.WatchHasPath, ev.Path), shown(ev, fsproto.WatchHasOld, ev.OldPath)
	switch ev.Kind {
	case fsproto.WatchOverflow:
		b.WriteString(" events were lost here; look at the directory anew\n")
		return b.String()
	case fsproto.WatchEnd:
		b.WriteString(" " + endReason(ev.Error) + "\n")
		return b.String()
	case fsproto.WatchRename:
		path = old + " -> " + path
	}
	by := "on the server"
	if ev.By != "" {
		by = "by " + person(ev.By)
	}
	b.WriteString(" " + path + " (" + by + ")\n")
	return b.String()
}

// shown is a path as a person reads it; "." is the watched directory itself.
func shown(ev *watch.Event, has uint32, path string) string {
	switch {
	case ev.Flags&has == 0:
		return "(elsewhere)"
	case path == "":
		return "."
	case ev.Flags&fsproto.WatchIsDir != 0:
		path += "/"
	}
	return clean.Line(path)
}

// jsonWatchVersion is the version of the lines below. It rises when a field changes its
// meaning; new fields and kinds may come without.
const jsonWatchVersion = 1

// jsonWatchStart is the first line that --json prints. The names are part of the
// interface, and are listed in rpycfs(1), as those of the others are.
type jsonWatchStart struct {
	Version   int    `json:"version"`
	Kind      string `json:"kind"` // start
	Source    string `json:"source"`
	Recursive bool   `json:"recursive"`
	Unseen    string `json:"unseen,omitempty"` // why changes by programs on the server are not told
}

// jsonWatch is an event.
type jsonWatch struct {
	Seq      uint64    `json:"seq"`
	Kind     string    `json:"kind"`
	Time     string    `json:"time"`
	By       string    `json:"by,omitempty"`   // client or server
	User     string    `json:"user,omitempty"` // with by client
	Dir      bool      `json:"dir,omitempty"`
	Path     *string   `json:"path,omitempty"` // "" is the watched directory itself
	Path64   string    `json:"path_base64,omitempty"`
	From     *string   `json:"from,omitempty"` // of a rename
	From64   string    `json:"from_base64,omitempty"`
	New      *jsonAttr `json:"new,omitempty"`
	Old      *jsonAttr `json:"old,omitempty"`
	Error    string    `json:"error,omitempty"` // of an end
	ErrorNum uint32    `json:"errno,omitempty"`
}

// jsonAttr are attributes.
type jsonAttr struct {
	Type  string `json:"type"`
	Mode  string `json:"mode"` // octal permission bits
	Size  uint64 `json:"size"`
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	Nlink uint32 `json:"nlink"`
	Ino   uint64 `json:"ino"`
	Mtime string `json:"mtime"`
	Ctime string `json:"ctime"`
	Btime string `json:"btime,omitempty"`
}

func jsonOf(ev *watch.Event) *jsonWatch {
	j := &jsonWatch{Seq: ev.Seq, Kind: watchKinds[ev.Kind], Time: jsonTime(timeOf(ev.Time)), Dir: ev.Flags&fsproto.WatchIsDir != 0}
	switch ev.Kind {
	case fsproto.WatchOverflow:
		return j
	case fsproto.WatchEnd:
		j.Error, j.ErrorNum = endReason(ev.Error), ev.Error
		return j
	}
	if j.By = "server"; ev.By != "" {
		j.By, j.User = "client", ev.By
	}
	if ev.Flags&fsproto.WatchHasPath != 0 {
		j.Path, j.Path64 = jsonPath(ev.Path)
	}
	if ev.Flags&fsproto.WatchHasOld != 0 {
		j.From, j.From64 = jsonPath(ev.OldPath)
	}
	if ev.Flags&fsproto.WatchHasAttr != 0 {
		j.New = jsonAttrOf(&ev.Attr)
	}
	if ev.Flags&fsproto.WatchHasOldAttr != 0 {
		j.Old = jsonAttrOf(&ev.OldAttr)
	}
	return j
}

// jsonPath returns a path, and if it is no UTF-8, which JSON cannot hold, its bytes.
func jsonPath(path string) (*string, string) {
	if utf8.ValidString(path) {
		return &path, ""
	}
	text := strings.ToValidUTF8(path, string(utf8.RuneError))
	return &text, base64.StdEncoding.EncodeToString([]byte(path))
}

var fileTypes = map[uint32]string{
	fsproto.ModeFIFO: "fifo", fsproto.ModeChar: "char", fsproto.ModeDir: "dir", fsproto.ModeBlock: "block",
	fsproto.ModeRegular: "file", fsproto.ModeSymlink: "symlink", fsproto.ModeSocket: "socket",
}

func jsonAttrOf(a *fsproto.Attr) *jsonAttr {
	j := &jsonAttr{
		Type: fileTypes[a.Type()], Mode: fmt.Sprintf("%04o", a.Mode&fsproto.ModePerm), Size: a.Size, UID: a.UID, GID: a.GID,
		Nlink: a.Nlink, Ino: a.Ino, Mtime: jsonTime(timeOf(a.Mtime)), Ctime: jsonTime(timeOf(a.Ctime)),
	}
	if a.Flags&fsproto.AttrHasBtime != 0 {
		j.Btime = jsonTime(timeOf(a.Btime))
	}
	return j
}

func timeOf(t fsproto.Time) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }
