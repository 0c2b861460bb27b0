// Package project holds the tests that keep the repository in shape: which
// package may import which, and where path system calls may be made. It has no
// code of its own.
package project
