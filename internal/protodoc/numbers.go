package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"strings"
)

// numbers returns the tables of a package's constants, one per const block, in
// the order of the files' names and of the blocks in them.
func numbers(dir string) (string, error) {
	fset := token.NewFileSet()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", err
	}
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return "", fmt.Errorf("parsing %s: %w", path, err)
		}
		files = append(files, file)
	}
	values := constants(fset, files)
	var b strings.Builder
	for _, file := range files {
		for _, decl := range file.Decls {
			if gen, ok := decl.(*ast.GenDecl); ok && gen.Tok == token.CONST && gen.Lparen.IsValid() {
				if err := writeBlock(&b, gen, values); err != nil {
					return "", err
				}
			}
		}
	}
	return b.String(), nil
}

// constants evaluates what the files define. The type checker is not shown the
// packages that they import; no constant depends on them.
func constants(fset *token.FileSet, files []*ast.File) map[*ast.Ident]types.Object {
	info := &types.Info{Defs: make(map[*ast.Ident]types.Object)}
	conf := types.Config{
		Importer: nothing{},
		Error:    func(error) {}, // about what could not be imported
	}
	_, _ = conf.Check("protocol", fset, files, info)
	return info.Defs
}

// nothing imports no package.
type nothing struct{}

func (nothing) Import(path string) (*types.Package, error) {
	return nil, fmt.Errorf("%s is not imported here", path)
}

// writeBlock writes the exported constants of one const block.
func writeBlock(b *strings.Builder, gen *ast.GenDecl, values map[*ast.Ident]types.Object) error {
	fmt.Fprintf(b, "\n%s\n\n| name | value | |\n|---|---|---|\n", words(gen.Doc))
	for _, spec := range gen.Specs {
		spec := spec.(*ast.ValueSpec)
		for _, name := range spec.Names {
			if !name.IsExported() {
				continue
			}
			c, ok := values[name].(*types.Const)
			if !ok {
				return fmt.Errorf("no value for %s", name.Name)
			}
			value := c.Val().ExactString()
			switch {
			case strings.HasPrefix(name.Name, "Mode"):
				value = fmt.Sprintf("%#o", mustUint(value))
			case strings.HasPrefix(name.Name, "Code"):
				value = fmt.Sprintf("%#x", mustUint(value))
			}
			fmt.Fprintf(b, "| %s | %s | %s |\n", name.Name, value,
				strings.TrimSpace(words(spec.Doc)+" "+words(spec.Comment)))
		}
	}
	return nil
}

func mustUint(s string) uint64 {
	var n uint64
	if _, err := fmt.Sscan(s, &n); err != nil {
		panic(err)
	}
	return n
}
