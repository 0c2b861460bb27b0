package conformance

import "testing"

// TestPlainDirectory proves the table itself: a local disk must pass.
func TestPlainDirectory(t *testing.T) { Run(t, t.TempDir(), All) }
