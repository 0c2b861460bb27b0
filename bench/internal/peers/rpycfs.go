package peers

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Rpycfs is our own daemon and mount, as a user would run them.
type Rpycfs struct {
	Label string
	Bin   string // directory of the programs; empty: build them
	State string // directory of keys, known hosts and the password
	Tree  string // exported
	Mnt   string
	Via   string // a port that leads to the daemon; empty: its own
	At    Ends

	proc *Process // rpycfsd, while it runs
	port string
}

// Build builds the programs of the module that this one stands in.
func Build(dir string) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/rpycfs/rpycfs").Output()
	if err != nil {
		return fmt.Errorf("go list: %w (run within bench/, or give -bin)", err)
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/rpycfsd", "./cmd/mount.rpycfs", "./cmd/rpycfs")
	cmd.Dir = string(out[:len(out)-1])
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

const benchUser = "bench"

// Start starts the daemon unless it runs.
func (r *Rpycfs) Start() (err error) {
	if r.proc != nil {
		return nil
	}
	if r.Bin == "" {
		if err := Build(r.State); err != nil {
			return err
		}
		r.Bin = r.State
	}
	if r.port == "" {
		if r.port, err = r.At.freePort(); err != nil {
			return err
		}
	}
	if err := os.WriteFile(r.passwordFile(), []byte("throwaway\n"), 0o600); err != nil {
		return err
	}
	r.proc, err = r.At.Server.With(r.env()...).Start(filepath.Join(r.Bin, "rpycfsd"), r.Tree, "--listen="+r.At.host()+":"+r.port,
		"--user="+benchUser, "--password-file="+r.passwordFile(), "--state="+filepath.Join(r.State, "daemon"))
	if err != nil {
		return err
	}
	return r.At.awaitPort(r.port, r.proc)
}

// Stop ends the daemon if it runs.
func (r *Rpycfs) Stop() {
	if r.proc != nil {
		r.proc.Stop()
		r.proc = nil
	}
}

// Kill kills the daemon, and not its keeper.
func (r *Rpycfs) Kill() {
	if r.proc != nil {
		r.proc.Cmd.Process.Kill()
		<-r.proc.Done
		r.proc = nil
	}
}

// Daemon is its process, nil while it does not run.
func (r *Rpycfs) Daemon() *Process { return r.proc }

// Port is where it listens, once it has been started.
func (r *Rpycfs) Port() string { return r.port }

func (r *Rpycfs) passwordFile() string { return filepath.Join(r.State, "password") }

// env keeps known hosts and the like out of the user's home.
func (r *Rpycfs) env() []string {
	return []string{"HOME=" + r.State, "XDG_CONFIG_HOME=" + r.State, "XDG_STATE_HOME=" + r.State}
}

func (r *Rpycfs) Name() string { return r.Label }

func (r *Rpycfs) Mount(ctx context.Context) (*Mounted, error) {
	if err := r.Start(); err != nil {
		return nil, err
	}
	p, err := r.At.Client.With(r.env()...).Start(filepath.Join(r.Bin, "mount.rpycfs"), r.At.host()+":/", r.Mnt,
		"-o", "foreground,port="+cmp.Or(r.Via, r.port)+",user="+benchUser+",password-file="+r.passwordFile())
	if err != nil {
		return nil, err
	}
	return AwaitMount(ctx, r.Mnt, p)
}
