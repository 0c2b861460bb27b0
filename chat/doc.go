// Package chat is the client of a daemon's chat service, for programs.
package chat
