package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Daemon and clients are this program again, in processes of their own. A child
// reads one request per line from its standard input and answers each with one
// line; it ends when that input does.

const (
	roleEnv  = "CHATBENCH_ROLE" // set: be that child
	lifetime = 40 * time.Minute // after which a child ends whatever happens
)

// request asks a child for something.
type request struct {
	Do   string
	Args json.RawMessage
}

// answer is what comes back.
type answer struct {
	Error  string
	Result json.RawMessage
}

// methods are what a child can be asked for, by name.
type methods map[string]func(args json.RawMessage) (any, error)

// method makes an entry of methods.
func method[Args, Res any](f func(Args) (Res, error)) func(json.RawMessage) (any, error) {
	return func(raw json.RawMessage) (any, error) {
		var a Args
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, err
		}
		return f(a)
	}
}

// none is no arguments, or no result.
type none struct{}

// runChild answers requests until the input ends.
func runChild(m methods, in io.Reader, out io.Writer) error {
	time.AfterFunc(lifetime, func() { os.Exit(3) })
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q request
		if err := dec.Decode(&q); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := enc.Encode(m.answer(&q)); err != nil {
			return err
		}
	}
}

func (m methods) answer(q *request) answer {
	f := m[q.Do]
	if f == nil {
		return answer{Error: "no method " + q.Do}
	}
	res, err := f(q.Args)
	if err != nil {
		return answer{Error: err.Error()}
	}
	raw, err := json.Marshal(res)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Result: raw}
}

// child is a running child.
type child struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *json.Encoder
	dec  *json.Decoder
}

// startChild starts this program in a role. It does not outlive us.
func startChild(role string, env ...string) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{name: role, cmd: exec.Command(exe)}
	c.cmd.Env = append(append(os.Environ(), roleEnv+"="+role), env...)
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	c.enc, c.dec = json.NewEncoder(c.in), json.NewDecoder(out)
	return c, c.cmd.Start()
}

// ask sends a request and waits for the answer, for res to point to.
func (c *child) ask(do string, args, res any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	if err := c.enc.Encode(request{do, raw}); err != nil {
		return fmt.Errorf("%s: %s: %w", c.name, do, err)
	}
	var a answer
	if err := c.dec.Decode(&a); err != nil {
		return fmt.Errorf("%s: %s: %w", c.name, do, err)
	}
	if a.Error != "" {
		return fmt.Errorf("%s: %s: %s", c.name, do, a.Error)
	}
	if res == nil {
		return nil
	}
	return json.Unmarshal(a.Result, res)
}

// close ends the child; one that does not go in ten seconds is killed.
func (c *child) close() error {
	c.in.Close()
	late := time.AfterFunc(10*time.Second, func() { c.cmd.Process.Kill() })
	defer late.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return nil
}

// each asks all children at once, and returns the first error.
func each(children []*child, f func(i int, c *child) error) error {
	errs := make(chan error, len(children))
	for i, c := range children {
		go func() { errs <- f(i, c) }()
	}
	var all error
	for range children {
		all = errors.Join(all, <-errs)
	}
	return all
}
