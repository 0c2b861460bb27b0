package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// protocolPackages are the directories that define messages.
var protocolPackages = []string{"fsproto", "chat/chatproto", "rpc"}

const module = "github.com/rpycfs/rpycfs/"

// typeInfo is what the source says about a message in words.
type typeInfo struct {
	doc    string
	fields map[string]string // comment of each field
}

// source holds the struct types of the protocol packages by import path and name.
type source map[string]typeInfo

// parseSource reads the comments of the protocol packages.
func parseSource(root string) (source, error) {
	src := make(source)
	for _, dir := range protocolPackages {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			if err := src.addFile(module+dir, file); err != nil {
				return nil, err
			}
		}
	}
	return src, nil
}

func (src source) addFile(pkg, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("parsing %s: %w", path, err)
	}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			spec := spec.(*ast.TypeSpec)
			if st, ok := spec.Type.(*ast.StructType); ok {
				doc := spec.Doc
				if doc == nil {
					doc = gen.Doc
				}
				src[pkg+"."+spec.Name.Name] = typeInfo{doc: words(doc), fields: fieldComments(st)}
			}
		}
	}
	return nil
}

// fieldComments returns the comment of each field, above or beside it.
func fieldComments(st *ast.StructType) map[string]string {
	comments := make(map[string]string)
	for _, f := range st.Fields.List {
		text := strings.TrimSpace(words(f.Doc) + " " + words(f.Comment))
		for _, name := range f.Names {
			comments[name.Name] = text
		}
	}
	return comments
}

// words returns a comment on one line, fit for a table.
func words(c *ast.CommentGroup) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(c.Text()), " "), "|", `\|`)
}
