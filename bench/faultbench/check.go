package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What the programs were told to be safe is looked for in the server's own directory.

// losses counts what is missing or wrong there, and says what.
func losses(tree string, outcomes map[string]outcome) (n int, what []string) {
	for name, find := range map[string]func(string, outcome) []string{
		progAppend: lostLines, progHeld: lostBlocks, progSwap: lostVersion,
	} {
		lost := find(filepath.Join(tree, name), outcomes[name])
		n += len(lost)
		what = append(what, lost[:min(len(lost), 3)]...)
	}
	slices.Sort(what)
	return n, what
}

// lostLines finds lines of the log that are missing, there twice or out of turn.
func lostLines(path string, o outcome) (lost []string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	found, last := make(map[int]bool), 0
	for l := range strings.Lines(string(text)) {
		var n int
		if _, err := fmt.Sscan(l, &n); err != nil || l != line(n) {
			continue // who wrote it was told; a line that was torn with it is missing
		}
		if n <= last {
			lost = append(lost, fmt.Sprintf("log: line %d after %d", n, last))
		}
		found[n], last = true, n
	}
	for _, n := range o.Acked {
		if !found[n] {
			lost = append(lost, fmt.Sprintf("log: line %d is missing", n))
		}
	}
	return lost
}

// lostBlocks finds blocks of the open file that are not what was written last. A later
// one, of which nothing was acknowledged, may be there instead.
func lostBlocks(path string, o outcome) (lost []string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	last := make(map[int]int)
	for _, n := range o.Acked {
		last[n%blocks] = n
	}
	for at, n := range last {
		here := data[min(at*blockSize, len(data)):min((at+1)*blockSize, len(data))]
		whole := false
		for ; n <= o.Tried && !whole; n += blocks {
			whole = bytes.Equal(here, block(n))
		}
		if !whole {
			lost = append(lost, fmt.Sprintf("open file: block %d holds %.16q, not %d", at, here, last[at]))
		}
	}
	return lost
}

// lostVersion looks at the file that was replaced: it holds the last version that was
// acknowledged, or a later one, whole.
func lostVersion(path string, o outcome) []string {
	if len(o.Acked) == 0 {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return []string{err.Error()}
	}
	for n := o.Acked[len(o.Acked)-1]; n <= o.Tried; n++ {
		if bytes.Equal(data, version(n)) {
			return nil
		}
	}
	return []string{fmt.Sprintf("replaced file: %.16q, not version %d", data, o.Acked[len(o.Acked)-1])}
}
