package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// rpycfs is our own daemon and mount, as a user would run them.
type rpycfs struct {
	label string
	bin   string // directory of the programs; empty: build them
	state string // directory of keys, known hosts and the password
	tree  string // exported
	mnt   string

	proc *process // rpycfsd, once it has been started
	port string
}

// buildRpycfs builds the programs of the module that this one stands in.
func buildRpycfs(dir string) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/rpycfs/rpycfs").Output()
	if err != nil {
		return fmt.Errorf("go list: %w (run within bench/, or give -bin)", err)
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/rpycfsd", "./cmd/mount.rpycfs")
	cmd.Dir = string(out[:len(out)-1])
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

const benchUser = "bench"

// start starts the daemon unless it runs.
func (r *rpycfs) start() (err error) {
	if r.proc != nil {
		return nil
	}
	if r.bin == "" {
		if err := buildRpycfs(r.state); err != nil {
			return err
		}
		r.bin = r.state
	}
	if r.port, err = freePort(); err != nil {
		return err
	}
	if err := os.WriteFile(r.passwordFile(), []byte("throwaway\n"), 0o600); err != nil {
		return err
	}
	r.proc, err = start(r.env(), filepath.Join(r.bin, "rpycfsd"), r.tree, "--listen=127.0.0.1:"+r.port,
		"--user="+benchUser, "--password-file="+r.passwordFile(), "--state="+filepath.Join(r.state, "daemon"))
	if err != nil {
		return err
	}
	return awaitPort(r.port, r.proc)
}

// stop ends the daemon if it runs.
func (r *rpycfs) stop() {
	if r.proc != nil {
		r.proc.stop()
	}
}

func (r *rpycfs) passwordFile() string { return filepath.Join(r.state, "password") }

// env keeps known hosts and the like out of the user's home.
func (r *rpycfs) env() []string {
	return []string{"HOME=" + r.state, "XDG_CONFIG_HOME=" + r.state, "XDG_STATE_HOME=" + r.state}
}

func (r *rpycfs) name() string { return r.label }

func (r *rpycfs) mount(ctx context.Context) (*mounted, error) {
	if err := r.start(); err != nil {
		return nil, err
	}
	p, err := start(r.env(), filepath.Join(r.bin, "mount.rpycfs"), "127.0.0.1:/", r.mnt,
		"-o", "foreground,port="+r.port+",user="+benchUser+",password-file="+r.passwordFile())
	if err != nil {
		return nil, err
	}
	return awaitMount(ctx, r.mnt, p)
}
