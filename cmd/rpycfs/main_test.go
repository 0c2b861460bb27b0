package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/rpycfs/rpycfs/auth"
	"github.com/rpycfs/rpycfs/internal/version"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rpycfs runs the program.
func rpycfs(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIODqO05p9IuyeU+mSR3wnzCGk1Je+MRm5XOKBTFLlJro laptop"

// TestPasswd is the life of a users file.
func TestPasswd(t *testing.T) {
	dir := t.TempDir()
	users, password, public := filepath.Join(dir, "users"), filepath.Join(dir, "password"), filepath.Join(dir, "id.pub")
	for path, text := range map[string]string{password: "from a file\nsecond line\n", public: key + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		stdin string
		args  []string
		list  string // afterwards
	}{
		{"secret\n", []string{"-a", "alice"}, "alice password\n"},
		{"", []string{"-a", "bob", "--password-file", password, "--read-only", "--root", "a/b", "--trusted"},
			"alice password\nbob password read-only root=a/b trusted\n"},
		{"", []string{"-a", "bob", "--keep-password", "--no-read-only", "--root=", "--key", public, "--authorized-keys", "/x/keys"},
			"alice password\nbob password keys=1 authorized-keys=/x/keys trusted\n"},
		{"other", []string{"-a", "bob", "--key", public, "--authorized-keys="}, "alice password\nbob password keys=1 trusted\n"},
		{"", []string{"-a", "bob", "--keep-password", "--no-root-squash"}, "alice password\nbob password keys=1 trusted no-root-squash\n"},
		{"", []string{"-a", "bob", "--keep-password", "--no-no-root-squash"}, "alice password\nbob password keys=1 trusted\n"},
		{"", []string{"-d", "alice"}, "bob password keys=1 trusted\n"},
		{"", []string{"-a", "carol", "--keep-password", "--key", public}, "bob password keys=1 trusted\ncarol keys=1\n"},
	} {
		if code, stdout, stderr := rpycfs(step.stdin, append([]string{"passwd", "-f", users}, step.args...)...); code != 0 || stdout+stderr != "" {
			t.Fatalf("%v: %d, %q, %q", step.args, code, stdout, stderr)
		}
		if code, stdout, stderr := rpycfs("", "passwd", "-f", users, "-l"); code != 0 || stdout != step.list || stderr != "" {
			t.Errorf("%v: list %d\n%s%s", step.args, code, stdout, stderr)
		}
		if info, err := os.Stat(users); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	text, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"secret", "from a file", "other"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the file holds the password %q", secret)
		}
	}
	if u, err := auth.LoadUsers(users); err != nil || len(u.List()) != 2 {
		t.Errorf("%v", err)
	}
}

// TestPasswdErrors: one line on stderr, nothing changed, nothing left behind.
func TestPasswdErrors(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	if code, _, stderr := rpycfs("secret\n", "passwd", "-f", users, "-a", "alice"); code != 0 {
		t.Fatal(stderr)
	}
	before, _ := os.ReadFile(users)
	missing := filepath.Join(dir, "missing")
	for _, tt := range []struct {
		code  int
		want  string
		stdin string
		args  []string
	}{
		{1, "say what to do", "", []string{"-f", users}},
		{2, "missing flags", "", []string{"-l"}},
		{2, "can't be used together", "", []string{"-f", users, "-l", "-d", "alice"}},
		{2, "unexpected argument", "", []string{"-f", users, "alice"}},
		{1, "no user \"bob\"", "", []string{"-f", users, "-d", "bob"}},
		{1, "no such file", "", []string{"-f", missing, "-d", "bob"}},
		{1, "no such file", "", []string{"-f", missing, "-l"}},
		{1, "password is empty", "", []string{"-f", users, "-a", "alice"}},
		{1, "password is empty", "\nx\n", []string{"-f", missing, "-a", "alice"}},
		{1, "longer than", strings.Repeat("x", 5000), []string{"-f", users, "-a", "alice"}},
		{1, "user's name", "x\n", []string{"-f", users, "-a", "a/b"}},
		{1, "root", "x\n", []string{"-f", users, "-a", "bob", "--root=../x"}},
		{1, "root", "x\n", []string{"-f", missing, "-a", "bob", "--root=/x"}},
		{1, "no such file", "x\n", []string{"-f", users, "-a", "bob", "--key", missing}},
		{1, "more than one line", "x\n", []string{"-f", users, "-a", "bob", "--key", users}},
		{1, "no such file", "", []string{"-f", users, "-a", "bob", "--password-file", missing}},
		{1, "contradict", "", []string{"-f", users, "-a", "bob", "--keep-password", "--password-file", users}},
		{1, "no such file", "x\n", []string{"-f", filepath.Join(missing, "users"), "-a", "bob"}},
	} {
		code, stdout, stderr := rpycfs(tt.stdin, append([]string{"passwd"}, tt.args...)...)
		if code != tt.code || stdout != "" || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "rpycfs: ") {
			t.Errorf("%v: %d, %q, %q", tt.args, code, stdout, stderr)
		}
	}
	if after, _ := os.ReadFile(users); !bytes.Equal(before, after) {
		t.Error("the users file changed")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := os.Chmod(users, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := rpycfs("", "passwd", "-f", users, "-l"); code != 1 || !strings.Contains(stderr, "chmod 600") {
		t.Errorf("%d, %q", code, stderr)
	}
}

func TestVersionAndHelp(t *testing.T) {
	code, stdout, stderr := rpycfs("", "--version")
	if code != 0 || !strings.HasPrefix(stdout, "rpycfs "+version.Version) || !strings.Contains(stdout, "Linux "+version.Kernel) || stderr != "" {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
	if code, stdout, _ := rpycfs("", "passwd", "--help"); code != 0 || !strings.Contains(stdout, "--authorized-keys") {
		t.Errorf("%d, %q", code, stdout)
	}
	if code, stdout, stderr := rpycfs(""); code != 2 || stdout != "" || !strings.Contains(stderr, "--help") {
		t.Errorf("%d, %q, %q", code, stdout, stderr)
	}
}
