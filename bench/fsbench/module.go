package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// writeModule writes a module of packages that import earlier ones, and returns
// what its program prints.
func writeModule(dir string, packages int, seed uint64) (string, error) {
	const files, functions = 4, 12
	r := rand.New(rand.NewPCG(seed, 1))
	sums := make([]int, packages)
	for p := range packages {
		var total []string
		for f := range files {
			var text strings.Builder
			fmt.Fprintf(&text, "package p%d\n", p)
			for k := range functions {
				n := r.IntN(1000)
				sums[p] += n
				name := fmt.Sprintf("f%dx%d", f, k)
				total = append(total, name+"()")
				fmt.Fprintf(&text, "\nfunc %s() int {\n\tvar all []int\n\tfor i := range %d {\n\t\tall = append(all, i)\n\t}\n\treturn len(all)\n}\n", name, n)
			}
			if err := write(filepath.Join(dir, fmt.Sprintf("p%d/f%d.go", p, f)), text.String()); err != nil {
				return "", err
			}
		}
		imports := ""
		if p > 0 {
			q := r.IntN(p)
			sums[p] += sums[q]
			imports = fmt.Sprintf("import \"bench/p%d\"\n\n", q)
			total = append(total, fmt.Sprintf("p%d.Total()", q))
		}
		text := fmt.Sprintf("package p%d\n\n%sfunc Total() int { return %s }\n", p, imports, strings.Join(total, " + "))
		if err := write(filepath.Join(dir, fmt.Sprintf("p%d/total.go", p)), text); err != nil {
			return "", err
		}
	}
	var main, imports strings.Builder
	all := 0
	for p := range packages {
		fmt.Fprintf(&imports, "\t\"bench/p%d\"\n", p)
		fmt.Fprintf(&main, "\tall += p%d.Total()\n", p)
		all += sums[p]
	}
	text := fmt.Sprintf("package main\n\nimport (\n\t\"fmt\"\n\n%s)\n\nfunc main() {\n\tall := 0\n%s\tfmt.Println(all)\n}\n", &imports, &main)
	if err := write(filepath.Join(dir, "main.go"), text); err != nil {
		return "", err
	}
	return fmt.Sprintln(all), write(filepath.Join(dir, "go.mod"), "module bench\n\ngo 1.26\n")
}

// write writes a file and makes the directory for it.
func write(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o644)
}
