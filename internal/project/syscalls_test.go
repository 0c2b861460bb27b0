package project

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// served are the directories whose code handles objects of the exported tree. For
// them only internal/beneath may make a system call that takes a path: it resolves
// names below a root descriptor and follows no symbolic link.
var served = []string{"rpycfsd/export", "internal/fsevents"}

// pathCalls match functions of os, path/filepath, syscall and x/sys/unix that
// resolve a path.
var pathCalls = map[string]*regexp.Regexp{
	"os":       regexp.MustCompile(`^(Open\w*|Create\w*|Mkdir\w*|Remove\w*|Rename|Symlink|Link|Readlink|Stat|Lstat|Chmod|Chown|Lchown|Chtimes|Truncate|ReadDir|ReadFile|WriteFile|CopyFS|DirFS|Chdir)$`),
	"filepath": regexp.MustCompile(`^(Walk|WalkDir|Glob|EvalSymlinks)$`),
	"syscall":  unixPathCalls,
	"unix":     unixPathCalls,
}

var unixPathCalls = regexp.MustCompile(`^((Open|Mkdir|Mknod|Unlink|Rename|Link|Symlink|Readlink|Fstat|Fchmod|Fchown|Faccess|UtimesNano)(at|At)2?|Open|Creat|Mkdir|Mknod|Rmdir|Unlink|Rename|Link|Symlink|Readlink|Stat|Lstat|Statfs|Access|Chmod|Chown|Lchown|Truncate|Utime\w*|Chdir|Chroot|L?(Get|Set|List|Remove)xattr|NameToHandleAt|OpenByHandleAt|Renameat2|Statx|Faccessat2|Openat2|InotifyAddWatch|FanotifyMark|Syscall\w*|RawSyscall\w*)$`)

func TestOnlyBeneathTakesPaths(t *testing.T) {
	files := 0
	for _, dir := range served {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files++
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, found := range pathCallsIn(t, path, string(text)) {
				t.Errorf("%s: only internal/beneath may do that", found)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files == 0 {
		t.Fatalf("no source in %v", served)
	}
}

// TestPathCallsAreSeen makes sure that the search finds what it should.
func TestPathCallsAreSeen(t *testing.T) {
	const source = `package p
import (
	"os"
	u "golang.org/x/sys/unix"
	"syscall"
)
func f(fd int) {
	u.Openat(fd, "x", 0, 0)
	u.Fstat(fd, nil)
	syscall.Unlink("x")
	os.Getpid()
	os.ReadFile("x")
	open := u.Open
	_ = open
}`
	found := pathCallsIn(t, "p.go", source)
	want := []string{"p.go:8:2: u.Openat", "p.go:10:2: syscall.Unlink", "p.go:12:2: os.ReadFile", "p.go:13:10: u.Open"}
	if strings.Join(found, "\n") != strings.Join(want, "\n") {
		t.Errorf("found %q, want %q", found, want)
	}
}

// pathCallsIn returns the places where a source file names a function that takes
// a path, whether it calls it or passes it on.
func pathCallsIn(t *testing.T, name, source string) []string {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	imported := make(map[string]*regexp.Regexp) // local package name → what is forbidden
	for _, spec := range file.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		base := path[strings.LastIndexByte(path, '/')+1:]
		if spec.Name != nil {
			imported[spec.Name.Name] = pathCalls[base]
		} else {
			imported[base] = pathCalls[base]
		}
	}
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && imported[pkg.Name] != nil && imported[pkg.Name].MatchString(sel.Sel.Name) {
			found = append(found, fset.Position(sel.Pos()).String()+": "+pkg.Name+"."+sel.Sel.Name)
		}
		return true
	})
	return found
}
