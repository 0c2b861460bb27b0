package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// rpycfs is our own daemon and mount, as a user would run them, from the
// programs in bin.
type rpycfs struct {
	label, bin string
}

// buildRpycfs builds the programs of the module that this one stands in.
func buildRpycfs(dir string) error {
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

func (r *rpycfs) name() string { return r.label }

func (r *rpycfs) program(name string) string { return filepath.Join(r.bin, name) }

func (r *rpycfs) mount(ctx context.Context, c *cell) (*mounted, error) {
	port, err := c.link.server.freePort(c.link.host)
	if err != nil {
		return nil, err
	}
	password := filepath.Join(c.tmp, "password")
	if err := os.WriteFile(password, []byte("throwaway\n"), 0o600); err != nil {
		return nil, err
	}
	// Known hosts and the like stay out of the user's home.
	env := []string{"HOME=" + c.tmp, "XDG_CONFIG_HOME=" + c.tmp, "XDG_STATE_HOME=" + c.tmp}
	daemon, err := c.server.with(env...).start(r.program("rpycfsd"), c.tree, "--listen="+c.link.host+":"+port,
		"--user="+benchUser, "--password-file="+password, "--state="+filepath.Join(c.tmp, "daemon"))
	if err != nil {
		return nil, err
	}
	if err := awaitPort(c.link, port, daemon); err != nil {
		return nil, err
	}
	p, err := c.client.with(env...).start(r.program("mount.rpycfs"), c.link.host+":/", c.mnt,
		"-o", "foreground,port="+port+",user="+benchUser+",password-file="+password)
	if err != nil {
		daemon.kill()
		return nil, err
	}
	m, err := awaitMount(ctx, c.mnt, p, daemon)
	if err == nil {
		m.calls = func(ctx context.Context) (Calls, error) { return r.calls(ctx, c.mnt) }
	}
	return m, err
}

// Calls counts the kernel's requests and the calls to the server, by name.
type Calls struct {
	Requests, Calls map[string]int64 `json:",omitempty"`
}

// calls asks rpycfs status.
func (r *rpycfs) calls(ctx context.Context, mnt string) (Calls, error) {
	var doc struct {
		Requests, Calls map[string]struct{ Count int64 }
	}
	out, err := spawn{}.run(ctx, r.program("rpycfs"), "status", "--json", mnt)
	if err == nil {
		err = json.Unmarshal(out, &doc)
	}
	counts := func(m map[string]struct{ Count int64 }) map[string]int64 {
		all := map[string]int64{}
		for name, n := range m {
			all[name] = n.Count
		}
		return all
	}
	return Calls{counts(doc.Requests), counts(doc.Calls)}, err
}

// since returns what has been counted since before.
func (c Calls) since(before Calls) Calls {
	minus := func(m, before map[string]int64) {
		for name := range m {
			if m[name] -= before[name]; m[name] == 0 {
				delete(m, name)
			}
		}
	}
	minus(c.Requests, before.Requests)
	minus(c.Calls, before.Calls)
	return c
}
