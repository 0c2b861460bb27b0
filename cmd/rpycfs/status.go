package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/rpycfs/rpycfs/internal/mounts"
	"github.com/rpycfs/rpycfs/internal/status"
)

// Exit codes of status beside 0 and exitFailed.
const (
	exitApart  = 3 // mounted, but not connected
	exitSilent = 4 // the process behind the mount does not answer
)

// statusOf is rpycfs status.
type statusOf struct {
	Mount string `arg:"" optional:"" help:"Mount point, or HOST:/PATH as it was mounted; without it, all mounts that you may ask."`
	JSON  bool   `name:"json" help:"Print JSON, one object per line."`
}

// Run tells how mounts are. It looks into none of them: their processes are asked
// through their sockets.
func (s *statusOf) Run(env *environment) error {
	list, err := s.mounts()
	if err != nil {
		return err
	}
	if len(list) == 0 {
		env.warn("status: no rpycfs mount is here that you may ask about")
	}
	code := 0
	for i, r := range askAll(env, list) {
		if r.err != nil && s.Mount != "" {
			return fmt.Errorf("status: %w", silentCode(r.err))
		}
		if r.err != nil {
			env.warn("status: %w", r.err)
			code = max(code, exitCode(silentCode(r.err)))
			continue
		}
		if err := s.print(env.stdout, r.answer, i > 0); err != nil {
			return err
		}
		if r.answer.Session.State != status.Connected {
			code = max(code, exitApart)
		}
	}
	if code != 0 {
		return ended(code)
	}
	return nil
}

// mounts returns the mount that was named, or all of this user's, and for root all.
func (s *statusOf) mounts() ([]mounts.Mount, error) {
	if s.Mount != "" {
		m, err := mounts.Find(s.Mount)
		if errors.Is(err, mounts.ErrNotMounted) {
			return nil, fmt.Errorf("status: %w (no rpycfs mount there); rpycfs status alone lists those that there are", err)
		}
		return []mounts.Mount{m}, err
	}
	list, err := mounts.List()
	me := uint32(os.Geteuid())
	seen := make(map[string]bool) // a bind mount has the device of another
	return slices.DeleteFunc(list, func(m mounts.Mount) bool {
		if m.Type != mounts.FSType || me != 0 && me != m.Owner || seen[m.Dev] {
			return true
		}
		seen[m.Dev] = true
		return false
	}), err
}

// reply is what asking about one mount has given.
type reply struct {
	answer *status.Answer
	err    error
}

// askAll asks about all mounts at once, so that those that do not answer are waited
// for once.
func askAll(env *environment, list []mounts.Mount) []reply {
	replies, done := make([]reply, len(list)), make(chan struct{})
	for i, m := range list {
		go func() {
			replies[i].answer, replies[i].err = status.Ask(env.ctx, m)
			done <- struct{}{}
		}()
	}
	for range list {
		<-done
	}
	return replies
}

// silentCode gives the error its exit code.
func silentCode(err error) error {
	if errors.Is(err, status.ErrSilent) {
		return &failure{exitSilent, err}
	}
	return err
}

// print prints one answer. Nothing in it reaches the terminal as it came.
func (s *statusOf) print(out io.Writer, a *status.Answer, apart bool) error {
	text := escapeJSON(string(a.Raw)) + "\n"
	if !s.JSON {
		text = statusText(&a.Document)
		if apart {
			text = "\n" + text
		}
	}
	_, err := io.WriteString(out, text)
	return err
}
