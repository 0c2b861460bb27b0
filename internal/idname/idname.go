// Package idname tells the names of this machine's users and groups, and their
// numbers by name, from wherever nsswitch.conf(5) says that accounts are kept.
//
// The name service may be a directory on the network: it can be slow, and a call
// of getpwuid(3) cannot be interrupted. So answers are remembered, few calls are
// under way at once, and who waits for one may leave.
package idname

import (
	"context"
	"errors"
	"os/user"
	"strconv"
	"strings"
)

// Kind says whether a number or name is a user's or a group's.
type Kind uint8

// Kinds.
const (
	User Kind = iota
	Group
)

// MaxName is the longest name, in bytes (LOGIN_NAME_MAX of Linux). Longer ones
// are nobody's.
const MaxName = 256

const (
	maxAnswers = 4096 // remembered, of each kind and direction
	maxCalls   = 8    // of the name service at once
)

// Service asks the name service of this machine. Its methods may be called
// concurrently.
type Service struct {
	calls  chan struct{} // a place for each call under way
	names  [2]*Cache[uint32, string]
	ids    [2]*Cache[string, uint32]
	source source
}

// source is what Service asks.
type source interface {
	name(k Kind, id uint32) (string, error)
	id(k Kind, name string) (uint32, error)
}

// errNone says that the name service knows of nobody. Other errors are its
// failures, which are not remembered.
var errNone = errors.New("no such user or group")

// New returns a service that remembers nothing yet.
func New() *Service { return newService(nss{}) }

func newService(s source) *Service {
	v := &Service{calls: make(chan struct{}, maxCalls), source: s}
	for k := range v.names {
		v.names[k] = NewCache[uint32, string](maxAnswers)
		v.ids[k] = NewCache[string, uint32](maxAnswers)
	}
	return v
}

// Name returns the name of a user or group, or "" if it has none. The error is
// ctx's or the name service's.
func (s *Service) Name(ctx context.Context, k Kind, id uint32) (string, error) {
	name, _, err := ask(ctx, s, s.names[k], id, func() (string, error) { return s.source.name(k, id) })
	return name, err
}

// ID returns the number of a user or group, and whether there is one of that
// name. A name that is a number is a name like any other. The error is ctx's or
// the name service's.
func (s *Service) ID(ctx context.Context, k Kind, name string) (id uint32, known bool, err error) {
	if name == "" || len(name) > MaxName || strings.IndexByte(name, 0) >= 0 {
		return 0, false, nil
	}
	return ask(ctx, s, s.ids[k], name, func() (uint32, error) { return s.source.id(k, name) })
}

// ask answers from the cache or by call. A call that nobody waits for any more
// ends by itself; its answer is remembered.
func ask[K comparable, V any](ctx context.Context, s *Service, c *Cache[K, V], key K, call func() (V, error)) (V, bool, error) {
	var none V
	if value, known, fresh := c.Get(key); fresh {
		return value, known, nil
	}
	select {
	case s.calls <- struct{}{}:
	case <-ctx.Done():
		return none, false, context.Cause(ctx)
	}
	type result struct {
		value V
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-s.calls }()
		value, err := call()
		if err == nil || errors.Is(err, errNone) {
			c.Put(key, value, err == nil)
		}
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		if errors.Is(r.err, errNone) {
			return none, false, nil
		}
		return r.value, r.err == nil, r.err
	case <-ctx.Done():
		return none, false, context.Cause(ctx)
	}
}

// nss is the name service by way of the C library, or /etc/passwd and
// /etc/group for programs built without it.
type nss struct{}

func (nss) name(k Kind, id uint32) (string, error) {
	text := strconv.FormatUint(uint64(id), 10)
	if k == Group {
		g, err := user.LookupGroupId(text)
		if err != nil {
			return "", none(err)
		}
		return bounded(g.Name)
	}
	u, err := user.LookupId(text)
	if err != nil {
		return "", none(err)
	}
	return bounded(u.Username)
}

func (nss) id(k Kind, name string) (uint32, error) {
	var text string
	if k == Group {
		g, err := user.LookupGroup(name)
		if err != nil {
			return 0, none(err)
		}
		text = g.Gid
	} else {
		u, err := user.Lookup(name)
		if err != nil {
			return 0, none(err)
		}
		text = u.Uid
	}
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err
}

func bounded(name string) (string, error) {
	if len(name) > MaxName || strings.IndexByte(name, 0) >= 0 {
		return "", errNone
	}
	return name, nil
}

// none turns the several errors for "no such account" into errNone.
func none(err error) error {
	var (
		uid   user.UnknownUserIdError
		gid   user.UnknownGroupIdError
		uname user.UnknownUserError
		gname user.UnknownGroupError
	)
	if errors.As(err, &uid) || errors.As(err, &gid) || errors.As(err, &uname) || errors.As(err, &gname) {
		return errNone
	}
	return err
}
