package e2e

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// sameTree compares every name, type, mode, byte and link target of two trees
// and returns how many files it compared.
func sameTree(t testing.TB, a, b string) int {
	t.Helper()
	left, right := entries(t, a), entries(t, b)
	for name := range right {
		if _, ok := left[name]; !ok {
			t.Errorf("%s is only in %s", name, b)
		}
	}
	files := 0
	for name, mode := range left {
		other, ok := right[name]
		if !ok {
			t.Errorf("%s is only in %s", name, a)
			continue
		}
		if mode != other {
			t.Errorf("%s: mode %v in %s, %v in %s", name, mode, a, other, b)
			continue
		}
		if err := sameFile(filepath.Join(a, name), filepath.Join(b, name), mode); err != nil {
			t.Error(err)
		}
		files++
	}
	return files
}

// entries returns everything below dir with its mode.
func entries(t testing.TB, dir string) map[string]fs.FileMode {
	t.Helper()
	found := make(map[string]fs.FileMode)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		found[name] = info.Mode()
		return err
	}))
	return found
}

func sameFile(a, b string, mode fs.FileMode) error {
	read := os.ReadFile
	switch {
	case mode.IsRegular():
	case mode&fs.ModeSymlink != 0:
		read = func(path string) ([]byte, error) { s, err := os.Readlink(path); return []byte(s), err }
	default:
		return nil
	}
	left, err := read(a)
	if err != nil {
		return err
	}
	right, err := read(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(left, right) {
		return fmt.Errorf("%s and %s differ (%d and %d bytes)", a, b, len(left), len(right))
	}
	return nil
}

// copyTree copies directories, regular files and symbolic links with their modes.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return copyEntry(path, filepath.Join(to, name), info.Mode())
	}))
}

func copyEntry(from, to string, mode fs.FileMode) error {
	switch {
	case mode.IsDir():
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	default:
		if err := copyFile(from, to); err != nil {
			return err
		}
	}
	return os.Chmod(to, mode.Perm()|0o200)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
