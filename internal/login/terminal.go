package login

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// Terminal is where a person can be asked. A nil Terminal has nobody.
type Terminal struct{ f *os.File }

// OpenTerminal returns nil if there is none.
func OpenTerminal() *Terminal {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return AsTerminal(f)
}

// AsTerminal returns nil if f is no terminal.
func AsTerminal(f *os.File) *Terminal {
	if f == nil || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &Terminal{f}
}

// secret asks for something that is not shown.
func (t *Terminal) secret(prompt string) (string, error) {
	fmt.Fprint(t.f, prompt)
	text, err := term.ReadPassword(int(t.f.Fd()))
	fmt.Fprintln(t.f)
	return string(text), err
}

// confirm asks for yes or no.
func (t *Terminal) confirm(question string) bool {
	fmt.Fprint(t.f, question)
	line, err := bufio.NewReader(t.f).ReadString('\n')
	return err == nil && strings.EqualFold(strings.TrimSpace(line), "yes")
}

// File is the terminal itself, for another process.
func (t *Terminal) File() *os.File { return t.f }

// Close closes the terminal; nil has nothing to close.
func (t *Terminal) Close() {
	if t != nil {
		t.f.Close()
	}
}

// KeepState returns a function that sets the terminal back to how it is now.
func (t *Terminal) KeepState() (restore func()) {
	state, err := term.GetState(int(t.f.Fd()))
	if err != nil {
		return func() {}
	}
	return func() { term.Restore(int(t.f.Fd()), state) }
}
