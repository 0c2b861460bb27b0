package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// tree is a directory with real files, and what is known of it.
type tree struct {
	dir     string
	entries []entry // files and symbolic links, sorted by name
	dirs    int     // with the topmost
	bytes   int64
}

type entry struct {
	name string // below the tree
	size int64
	sum  [sha256.Size]byte // of the content, or of where the link leads
}

// scan reads a tree, without the directory of git.
func scan(dir string) (*tree, error) {
	t := &tree{dir: dir}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" {
				return filepath.SkipDir
			}
			t.dirs++
			return nil
		}
		e := entry{name: strings.TrimPrefix(name, dir+"/")}
		switch d.Type() {
		case 0:
			e.size, e.sum, err = sumFile(name)
		case fs.ModeSymlink:
			var to string
			to, err = os.Readlink(name)
			e.size, e.sum = int64(len(to)), sha256.Sum256([]byte(to))
		default:
			err = fmt.Errorf("%s is neither a file nor a link", name)
		}
		t.entries = append(t.entries, e)
		t.bytes += e.size
		return err
	})
	slices.SortFunc(t.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return t, err
}

func sumFile(name string) (n int64, sum [sha256.Size]byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, sum, err
	}
	defer f.Close()
	h := sha256.New()
	n, err = io.Copy(h, f)
	h.Sum(sum[:0])
	return n, sum, err
}

// same reports how dir differs from t.
func (t *tree) same(dir string) error {
	found, err := scan(dir)
	if err != nil {
		return err
	}
	if len(found.entries) != len(t.entries) {
		return fmt.Errorf("%s has %d files, want %d", dir, len(found.entries), len(t.entries))
	}
	for i, e := range t.entries {
		if found.entries[i] != e {
			return fmt.Errorf("%s: %w: %s, want %s", dir, errContent, found.entries[i].name, e.name)
		}
	}
	return nil
}

// copyTree copies what is a file or a symbolic link in some of the directories
// below from, chosen by seed, until there are about files of them. Git's own
// directories are left out.
func copyTree(from, to string, files int, seed uint64) (*tree, error) {
	byDir := map[string][]string{}
	all := 0
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return filepath.SkipDir
		case d.Type() == 0 || d.Type() == fs.ModeSymlink:
			byDir[filepath.Dir(name)] = append(byDir[filepath.Dir(name)], name)
			all++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var dirs []string
	for dir := range byDir {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	r := rand.New(rand.NewPCG(seed, 0))
	if all > files {
		r.Shuffle(len(dirs), func(i, j int) { dirs[i], dirs[j] = dirs[j], dirs[i] })
	}
	taken := 0
	for _, dir := range dirs {
		rest := min(files-taken, len(byDir[dir]))
		for _, name := range byDir[dir][:rest] {
			if err := copyFile(name, filepath.Join(to, strings.TrimPrefix(name, from))); err != nil {
				return nil, err
			}
		}
		taken += rest
	}
	return scan(to)
}

// long is a time before now: git does not trust what is as young as its index.
var long = time.Now().Add(-24 * time.Hour)

// copyFile copies a file or a symbolic link, and makes the directory for it.
func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if info.Mode().Type() == fs.ModeSymlink {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, info.Mode().Perm()|0o200); err != nil {
		return err
	}
	return os.Chtimes(to, long, long)
}
