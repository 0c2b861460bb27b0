package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rpycfs/rpycfs/internal/mounts"
)

const (
	// Limit is how long Ask waits for an answer.
	Limit = 2 * time.Second
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 1 << 20
)

// ErrSilent says that the process behind a mount did not answer within Limit, not
// with a status, or is gone.
var ErrSilent = errors.New("the process behind it does not answer")

// Answer is what the process behind a mount has said.
type Answer struct {
	Document
	Raw []byte // JSON on one line, with what a later version has added
}

// Ask asks the process behind a mount, which need not be trusted, and looks at
// nothing in the mount. The error is fs.ErrPermission where this user may not ask,
// and otherwise ErrSilent.
func Ask(ctx context.Context, m mounts.Mount) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	c, err := mounts.Dial(ctx, m)
	if errors.Is(err, os.ErrPermission) {
		return nil, err
	}
	if err != nil {
		return nil, silent(m, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	text, err := io.ReadAll(io.LimitReader(c, maxAnswer))
	if err != nil {
		return nil, silent(m, err)
	}
	a := new(Answer)
	if err := json.Unmarshal(text, &a.Document); err != nil {
		return nil, silent(m, err)
	}
	if a.Version != Version {
		return nil, silent(m, fmt.Errorf("its status has version %d, this program knows %d", a.Version, Version))
	}
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		return nil, silent(m, err)
	}
	a.Raw = line.Bytes()
	return a, nil
}

func silent(m mounts.Mount, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w within %v", m.Point, ErrSilent, Limit)
	}
	return fmt.Errorf("%s: %w: %w", m.Point, ErrSilent, err)
}
