package project

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/rpycfs/rpycfs/"

// mayImport lists which packages of the module a package's code may import
// directly; a trailing /... stands for everything below. A package that is not
// listed fails the test, so that a new room gets its place here. Tests and the
// packages that serve only tests may import anything that code may.
var mayImport = map[string][]string{
	"rpc":                {"internal/bufconn"},
	"auth":               {"rpc", "internal/bufconn"},
	"fsproto":            {"rpc"},
	"client":             {"auth", "rpc", "fsproto", "internal/bufconn"},
	"rpycfsd":            {"auth", "rpc", "fsproto", "rpycfsd/...", "chat/service", "chat/store", "internal/bufconn", "internal/identity", "internal/keeper", "internal/mapped"},
	"rpycfsd/export":     {"rpc", "fsproto", "internal/beneath", "internal/fsevents", "internal/identity", "internal/idname", "internal/keeper", "internal/lockrange", "internal/mapped"},
	"chat":               {"auth", "client", "rpc", "chat/chatproto", "chat/e2ee", "chat/local", "chat/query"},
	"chat/chatproto":     {"rpc"},
	"chat/e2ee":          {"rpc", "chat/chatproto"},
	"chat/local":         {"chat/chatproto", "chat/query"},
	"chat/query":         {"chat/chatproto"},
	"chat/service":       {"rpc", "chat/chatproto", "chat/store"},
	"chat/store":         {"rpc", "chat/chatproto"},
	"mount":              {"auth", "client", "rpc", "fsproto", "internal/idname", "internal/lockrange", "internal/mounts"},
	"watch":              {"auth", "client", "rpc", "fsproto"},
	"internal/beneath":   {},
	"internal/bufconn":   {},
	"internal/chatui":    {"chat", "chat/chatproto", "internal/clean"},
	"internal/clean":     {},
	"internal/fsevents":  {"internal/beneath"},
	"internal/identity":  {},
	"internal/idname":    {},
	"internal/keeper":    {},
	"internal/lockrange": {},
	"internal/login":     {"auth", "client", "internal/mountopt"},
	"internal/mapped":    {},
	"internal/mountopt":  {"fsproto"},
	"internal/mounts":    {},
	"internal/status":    {"mount", "internal/mounts"},
	"internal/version":   {},
}

// commands may import any room; nothing imports them.
const commands = "cmd/"

// testOnly packages are imported by tests, or run by the Makefile.
var testOnly = []string{"e2e", "examples", "internal/conformance", "internal/history", "internal/project", "internal/protodoc", "rpc/rpctest", "tools"}

type listed struct {
	ImportPath string
	Imports    []string
}

func TestImportsPointOneWay(t *testing.T) {
	packages := list(t)
	if len(packages) < 5 {
		t.Fatalf("go list shows only %d packages", len(packages))
	}
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			if inModule, ok := strings.CutPrefix(imported, module); ok && !allowed(name, inModule) {
				t.Errorf("%s imports %s", name, inModule)
			}
		}
		if _, ok := mayImport[name]; !ok && !strings.HasPrefix(name, commands) && !isTestOnly(name) {
			t.Errorf("%s has no line in mayImport", name)
		}
	}
}

// TestRulesRefuse makes sure that the rules above say no.
func TestRulesRefuse(t *testing.T) {
	for _, pair := range [][2]string{
		{"mount", "rpycfsd"}, {"mount", "rpycfsd/export"}, {"rpycfsd", "mount"}, {"rpycfsd/export", "mount"},
		{"rpc", "fsproto"}, {"rpc", "auth"}, {"auth", "client"}, {"auth", "fsproto"}, {"fsproto", "client"}, {"client", "mount"},
		{"mount", "internal/beneath"}, {"chat/service", "fsproto"}, {"rpycfsd/export", "chat/service"}, {"chat", "chat/service"}, {"rpc", "internal/conformance"}, {"unknown", "rpc"}, {"mount", "cmd/rpycfs"},
	} {
		if allowed(pair[0], pair[1]) {
			t.Errorf("%s may import %s", pair[0], pair[1])
		}
	}
}

func allowed(name, imported string) bool {
	if strings.HasPrefix(name, commands) || isTestOnly(name) {
		return !strings.HasPrefix(imported, commands)
	}
	return slices.ContainsFunc(mayImport[name], func(rule string) bool {
		if below, ok := strings.CutSuffix(rule, "..."); ok {
			return strings.HasPrefix(imported, below)
		}
		return imported == rule
	})
}

func isTestOnly(name string) bool {
	return slices.ContainsFunc(testOnly, func(p string) bool {
		return name == p || strings.HasPrefix(name, p+"/")
	})
}

// list returns the packages of the module with their direct imports, those of
// their tests left out.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	cmd.Stderr = new(bytes.Buffer)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, cmd.Stderr)
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}
