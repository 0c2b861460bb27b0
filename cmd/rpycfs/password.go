package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/rpycfs/rpycfs/auth"
)

// newPassword reads a new password: from a file, from a person who types it
// twice, or from the first line of standard input.
func newPassword(env *environment, user, file string) (string, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return firstLine(f)
	}
	if f, ok := env.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return typeTwice(env, f, user)
	}
	return firstLine(env.stdin)
}

// firstLine returns the first line without its end.
func firstLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, auth.MaxPassword+2)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if line == "" {
		return "", errors.New("the password is empty")
	}
	if len(line) > auth.MaxPassword {
		return "", fmt.Errorf("the password is longer than %d bytes", auth.MaxPassword)
	}
	return line, nil
}

// typeTwice lets a person type a password without echo.
func typeTwice(env *environment, terminal *os.File, user string) (string, error) {
	first, err := ask(env, terminal, fmt.Sprintf("New password for %s: ", user))
	if err != nil {
		return "", err
	}
	second, err := ask(env, terminal, "The same again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ; nothing was changed")
	}
	return firstLine(strings.NewReader(first))
}

// ask reads one line without echo. When the context ends meanwhile, it gives the
// terminal its echo back; the reader then stays until the process ends.
func ask(env *environment, terminal *os.File, prompt string) (string, error) {
	fd := int(terminal.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(env.stderr, prompt)
	defer fmt.Fprintln(env.stderr)
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return string(a.text), a.err
	case <-env.ctx.Done():
		return "", errors.Join(context.Cause(env.ctx), term.Restore(fd, state))
	}
}
