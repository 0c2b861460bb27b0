package main

import (
	"io"
	"log/slog"
	"log/syslog"
	"os"

	"golang.org/x/sys/unix"
)

// openLog returns where messages go: to log=FILE, else to stderr in the
// foreground and to the system's log in the background.
func openLog(j *job, stderr io.Writer) (*slog.Logger, func(), error) {
	level := slog.LevelInfo
	if j.Verbose {
		level = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: level}
	switch {
	case j.Log != "":
		f, err := os.OpenFile(j.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, nil, fail(exitSystem, "option log: %w", err)
		}
		if !j.Foreground {
			unix.Dup3(int(f.Fd()), 2, 0) // where the runtime reports a crash
		}
		return slog.New(slog.NewTextHandler(f, opts)), func() { f.Close() }, nil
	case j.Foreground:
		return slog.New(slog.NewTextHandler(stderr, opts)), func() {}, nil
	}
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, "mount.rpycfs")
	if err != nil {
		return slog.New(slog.DiscardHandler), func() {}, nil // a machine without a system log
	}
	return slog.New(slog.NewTextHandler(w, opts)), func() { w.Close() }, nil
}
