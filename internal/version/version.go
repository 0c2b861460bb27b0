// Package version states which release this is and what it needs.
package version

import "runtime"

// Version is the release.
const Version = "0.1.0"

// The floors below which nothing is promised.
const (
	Go     = "1.26"
	Kernel = "5.15"
)

// String is what a program prints for --version: release, floors, and what later
// kernels add.
func String(program string) string {
	return program + " " + Version + " (" + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + `)
needs Linux ` + Kernel + ` or later, and Go ` + Go + ` or later to build; later kernels add:
  6.6   memory mapping of files that are open for appending
  6.16  one notification that invalidates all names at once`
}
