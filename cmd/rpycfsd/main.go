// Command rpycfsd exports a directory tree and a chat over one encrypted,
// authenticated connection. See rpycfsd(8).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/chat/service"
	"github.com/rpycfs/rpycfs/chat/store"
	"github.com/rpycfs/rpycfs/fsproto"
	"github.com/rpycfs/rpycfs/internal/keeper"
	"github.com/rpycfs/rpycfs/internal/mountopt"
	"github.com/rpycfs/rpycfs/internal/version"
	"github.com/rpycfs/rpycfs/rpycfsd"
)

type options struct {
	Path string `arg:"" optional:"" help:"Directory to export."`

	Port          int           `help:"TCP port to listen on, on all addresses (default 19912)." placeholder:"PORT"`
	Listen        []string      `help:"Address to listen on: HOST:PORT or unix:PATH. May be repeated." placeholder:"ADDRESS" sep:"none"`
	Users         string        `help:"Users file, as kept by rpycfs passwd." placeholder:"FILE" type:"path"`
	User          string        `help:"Name of the only user, in place of a users file." placeholder:"NAME"`
	Password      *string       `help:"Password of --user. Other local users can read it: prefer --password-file." placeholder:"PASSWORD"`
	PasswordFile  string        `help:"File whose first line is the password of --user." placeholder:"FILE" type:"path"`
	State         string        `help:"Directory for the server's keys and the chat's database." placeholder:"DIR" type:"path"`
	ReadOnly      bool          `help:"Refuse every change of files."`
	RunAs         string        `help:"Whose rights decide: daemon (default), account or caller; with --user, no_root_squash may follow after a comma." placeholder:"MODE" default:"daemon"`
	TLSCert       string        `name:"tls-cert" help:"Certificate (PEM) to use in place of the server's own key." placeholder:"FILE" type:"path"`
	TLSKey        string        `name:"tls-key" help:"Key (PEM) of --tls-cert." placeholder:"FILE" type:"path"`
	SessionGrace  time.Duration `help:"How long the session of a client whose connection is lost is kept (default ${default})." placeholder:"DURATION" default:"10m"`
	LockGrace     time.Duration `help:"How long the locks of a client whose connection is lost are kept (default ${default})." placeholder:"DURATION" default:"30s"`
	NoChat        bool          `name:"no-chat" help:"Serve no chat."`
	PresenceGrace time.Duration `help:"How long a chat user whose connection is lost is not yet offline (default 30s)." placeholder:"DURATION"`
	ChatRetention string        `help:"How much of each chat room is kept unless its owner says otherwise: a number of messages or a duration (default all)." placeholder:"COUNT|DURATION"`
	ChatRate      float64       `help:"Chat messages that a user may send per second (default ${default}); 0: no limit." placeholder:"NUMBER" default:"${chatRate}"`
	NoKeeper      bool          `name:"no-keeper" help:"Leave no process behind that keeps open files until the daemon is started again."`
	Keeper        bool          `hidden:"" help:"Be that process."`
	LogLevel      string        `help:"debug, info, warn or error." default:"info" enum:"debug,info,warn,error"`
	Version       bool          `help:"Print the version and what this program needs."`
}

// Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot run, 2 for wrong
// arguments.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main for tests. It serves until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	exited := -1
	parser, err := kong.New(&o, kong.Name("rpycfsd"), kong.Writers(stdout, stderr),
		kong.Description("Export a directory tree for mount.rpycfs, and serve a chat."),
		kong.Vars{"chatRate": fmt.Sprint(service.DefaultRate)},
		kong.Exit(func(code int) { exited = code }))
	if err != nil {
		panic(err)
	}
	_, err = parser.Parse(args)
	switch {
	case exited >= 0:
		return exited
	case err != nil:
		return fail(stderr, exitUsage, err)
	case o.Version:
		fmt.Fprintln(stdout, version.String("rpycfsd"))
		return 0
	}
	if o.Keeper {
		if err := o.keep(); err != nil {
			return fail(stderr, exitFailed, err)
		}
		return 0
	}
	if err := o.check(); err != nil {
		return fail(stderr, exitUsage, err)
	}
	if err := o.serve(ctx, stderr); err != nil {
		return fail(stderr, exitFailed, err)
	}
	return 0
}

func fail(stderr io.Writer, code int, err error) int {
	fmt.Fprintf(stderr, "rpycfsd: %v\n", err)
	return code
}

// check refuses what does not fit together.
func (o *options) check() error {
	switch {
	case o.Path == "":
		return errors.New("no directory to export; see rpycfsd --help")
	case (o.TLSCert == "") != (o.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case o.SessionGrace <= 0:
		return fmt.Errorf("--session-grace=%v is no time", o.SessionGrace)
	case o.LockGrace <= 0:
		return fmt.Errorf("--lock-grace=%v is no time", o.LockGrace)
	case o.Port < 0 || o.Port > 65535:
		return fmt.Errorf("--port=%d is no TCP port", o.Port)
	case o.Port != 0 && len(o.Listen) > 0:
		return errors.New("--port and --listen exclude each other")
	case o.User == "" && o.Users == "":
		return errors.New("nobody could log in: give --users=FILE (see rpycfs passwd), or --user=NAME with --password-file=FILE")
	case o.User == "" && (o.Password != nil || o.PasswordFile != ""):
		return errors.New("a password without --user=NAME")
	case o.Password != nil && o.PasswordFile != "":
		return errors.New("--password and --password-file exclude each other")
	case o.User != "" && o.Users != "":
		return errors.New("--user and --users exclude each other; add the user with rpycfs passwd -a")
	}
	if _, _, err := o.runAs(); err != nil {
		return err
	}
	_, err := o.chat()
	return err
}

// runAs returns whose rights decide (fsproto.RunAs…), and whether root among
// those of the only user is root.
func (o *options) runAs() (mode uint8, noRootSquash bool, err error) {
	name, option, comma := strings.Cut(o.RunAs, ",")
	mode, known := map[string]uint8{
		"daemon": fsproto.RunAsDaemon, "account": fsproto.RunAsAccount, "caller": fsproto.RunAsCaller,
	}[name]
	switch {
	case !known, comma && option != "no_root_squash":
		err = fmt.Errorf("--run-as=%s is none of daemon, account, caller, and caller,no_root_squash", o.RunAs)
	case comma && mode == fsproto.RunAsDaemon:
		err = fmt.Errorf("--run-as=%s: with the daemon's rights there is nothing to squash", o.RunAs)
	case comma && o.Users != "":
		err = fmt.Errorf("--run-as=%s: with a users file it is said of each user; see rpycfs passwd --no-root-squash", o.RunAs)
	}
	return mode, comma, err
}

// chat returns how the chat is to be served.
func (o *options) chat() (c rpycfsd.ChatConfig, err error) {
	c = rpycfsd.ChatConfig{Off: o.NoChat, Grace: o.PresenceGrace, Rate: o.ChatRate}
	if c.Retain, err = retention(o.ChatRetention); err != nil {
		return c, err
	}
	if c.Rate == 0 {
		c.Rate = -1 // no limit
	}
	switch {
	case !(o.ChatRate >= 0): // nor NaN
		return c, fmt.Errorf("--chat-rate=%v is no rate", o.ChatRate)
	case o.PresenceGrace < 0:
		return c, fmt.Errorf("--presence-grace=%v is in the past", o.PresenceGrace)
	}
	return c, nil
}

// retention reads the value of --chat-retention.
func retention(text string) (r store.Retention, err error) {
	if text == "" {
		return r, nil
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil && n > 0 {
		r.Count = n
		return r, nil
	}
	r.Age, err = time.ParseDuration(text)
	if err != nil || r.Age < time.Second {
		return r, fmt.Errorf("--chat-retention=%s is neither a number of messages, such as 100000, nor a duration of a second or more, such as 720h", text)
	}
	return r, nil
}

func (o *options) serve(ctx context.Context, stderr io.Writer) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	users, err := o.users(log)
	if err != nil {
		return err
	}
	state, err := o.state()
	if err != nil {
		return err
	}
	chat, err := o.chat()
	if err != nil {
		return err
	}
	runAs, _, err := o.runAs()
	if err != nil {
		return err
	}
	sockets, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("sockets that were passed on: %w", err)
	}
	sockets = slices.DeleteFunc(sockets, func(ln net.Listener) bool { return ln == nil })
	var keep []string
	if self, err := os.Executable(); err == nil && !o.NoKeeper {
		keep = []string{self, "--keeper", "--session-grace=" + o.SessionGrace.String()}
	}
	// What a client asks for is all that counts.
	syscall.Umask(0)
	d, err := rpycfsd.New(rpycfsd.Config{
		Path: o.Path, ReadOnly: o.ReadOnly, RunAs: runAs, Listen: o.listen(len(sockets) > 0), Sockets: sockets, State: state,
		Users: users, Keeper: keep, TLSCert: o.TLSCert, TLSKey: o.TLSKey, Chat: chat,
		SessionGrace: o.SessionGrace, LockGrace: o.LockGrace, Log: log,
	})
	if err != nil {
		return err
	}
	for _, addr := range d.Addrs() {
		log.Info("serving", "path", o.Path, "address", addr.String(), "key", d.Fingerprint())
	}
	defer o.reloads(users, log)()
	notify(log, daemon.SdNotifyReady)
	context.AfterFunc(ctx, func() { notify(log, daemon.SdNotifyStopping) })
	return d.Serve(ctx)
}

// keep is the keeper's part.
func (o *options) keep() error {
	l, err := net.FileListener(os.NewFile(3, "keeper"))
	if err != nil {
		return fmt.Errorf("this is started by rpycfsd itself: %w", err)
	}
	defer l.Close()
	unix, ok := l.(*net.UnixListener)
	if !ok {
		return errors.New("descriptor 3 is no local socket")
	}
	return keeper.Run(unix, o.SessionGrace)
}

// reloads reads the users file again at each SIGHUP. The returned function ends
// that.
func (o *options) reloads(users *auth.Users, log *slog.Logger) func() {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hup {
			if o.Users == "" {
				continue
			}
			if err := users.Reload(); err != nil {
				log.Error("users file not reloaded, the old users stay", "err", err)
				continue
			}
			log.Info("users file reloaded", "file", o.Users)
		}
	}()
	return func() {
		signal.Stop(hup)
		close(hup)
		<-done
	}
}

// notify tells systemd, if it is there.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "err", err)
	}
}

// listen returns where to listen beside the sockets that were passed on, if any were.
func (o *options) listen(passed bool) []string {
	switch {
	case len(o.Listen) > 0:
		return o.Listen
	case passed && o.Port == 0:
		return nil
	}
	if o.Port == 0 {
		o.Port = 19912
	}
	return []string{fmt.Sprintf(":%d", o.Port)}
}

func (o *options) users(log *slog.Logger) (*auth.Users, error) {
	if o.Users != "" {
		return auth.LoadUsers(o.Users)
	}
	password, err := o.password(log)
	if err != nil {
		return nil, err
	}
	users := auth.NewUsers()
	if err := users.SetPassword(o.User, password); err != nil {
		return nil, err
	}
	mode, noRootSquash, err := o.runAs()
	if err != nil {
		return nil, err
	}
	user, _ := users.Lookup(o.User)
	user.Trusted, user.NoRootSquash = mode == fsproto.RunAsCaller, noRootSquash
	return users, users.Add(user)
}

func (o *options) password(log *slog.Logger) (string, error) {
	if o.Password != nil {
		log.Warn("a password on the command line can be read by every local user; use --password-file or --users")
		return *o.Password, nil
	}
	if o.PasswordFile != "" {
		password, err := mountopt.ReadPasswordFile(o.PasswordFile)
		if err != nil {
			return "", fmt.Errorf("password file: %w", err)
		}
		return password, nil
	}
	if p := os.Getenv("RPYCFS_PASSWORD"); p != "" {
		return p, nil
	}
	return "", errors.New("--user without a password: give --password-file=FILE or set RPYCFS_PASSWORD")
}

// state returns the state directory: as told, as systemd says, or where the
// user keeps such things.
func (o *options) state() (string, error) {
	switch {
	case o.State != "":
		return o.State, nil
	case os.Getenv("STATE_DIRECTORY") != "":
		dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
		return dir, nil
	case os.Geteuid() == 0:
		return "/var/lib/rpycfs", nil
	case os.Getenv("XDG_STATE_HOME") != "":
		return filepath.Join(os.Getenv("XDG_STATE_HOME"), "rpycfs"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place for the server's keys: %w; give --state=DIR", err)
	}
	return filepath.Join(home, ".local/state/rpycfs"), nil
}
