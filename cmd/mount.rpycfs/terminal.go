package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal is where a person can be asked. A nil terminal has nobody.
type terminal struct{ f *os.File }

// openTerminal returns nil if there is none.
func openTerminal() *terminal {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return asTerminal(f)
}

// asTerminal returns nil if f is no terminal.
func asTerminal(f *os.File) *terminal {
	if f == nil || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &terminal{f}
}

// secret asks for something that is not shown.
func (t *terminal) secret(prompt string) (string, error) {
	fmt.Fprint(t.f, prompt)
	text, err := term.ReadPassword(int(t.f.Fd()))
	fmt.Fprintln(t.f)
	return string(text), err
}

// confirm asks for yes or no.
func (t *terminal) confirm(question string) bool {
	fmt.Fprint(t.f, question)
	line, err := bufio.NewReader(t.f).ReadString('\n')
	return err == nil && strings.EqualFold(strings.TrimSpace(line), "yes")
}

// keepState returns a function that sets the terminal back to how it is now.
func (t *terminal) keepState() (restore func()) {
	state, err := term.GetState(int(t.f.Fd()))
	if err != nil {
		return func() {}
	}
	return func() { term.Restore(int(t.f.Fd()), state) }
}
