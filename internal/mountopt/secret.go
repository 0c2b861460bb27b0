package mountopt

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// maxSecret bounds a file with a password, in bytes.
const maxSecret = 64 << 10

// ReadPasswordFile returns the first line of a file that only its owner can
// read.
func ReadPasswordFile(path string) (string, error) {
	text, err := readSecret(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// Credentials are what a credentials file holds.
type Credentials struct {
	User        string // "" if there is none
	Password    string
	HasPassword bool
}

// ReadCredentials reads a file that only its owner can read.
func ReadCredentials(path string) (Credentials, error) {
	text, err := readSecret(path)
	if err != nil {
		return Credentials{}, err
	}
	c, err := ParseCredentials(text)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseCredentials reads lines as mount.cifs has them: username=NAME and
// password=TEXT, where TEXT is the rest of the line as it is, commas, blanks
// and all. domain= is passed over, as are empty lines and lines that start with
// "#".
func ParseCredentials(text string) (Credentials, error) {
	var c Credentials
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		switch name = strings.TrimSpace(name); {
		case !ok:
			return c, usage("line %d is not of the form name=value", n)
		case name == "username" || name == "user":
			c.User = strings.TrimSpace(value)
		case name == "password" || name == "pass":
			c.Password, c.HasPassword = value, true
		case name == "domain" || name == "workgroup":
		default:
			return c, usage("line %d: unknown name; want username= or password=", n)
		}
	}
	return c, nil
}

// readSecret reads a file and refuses it if anybody but its owner may. What is
// checked is the file that was opened.
func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return "", usage("%s can be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	if info.IsDir() {
		return "", usage("%s is a directory", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxSecret {
		return "", usage("%s is longer than %d bytes", path, maxSecret)
	}
	return string(text), nil
}
