package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what one side of a peer has used.
type Usage struct {
	CPU  float64 // seconds, user and system
	Peak float64 // MiB resident, of all its processes together, since it was started
}

// group is a control group that all processes of one side belong to, with what
// they start: sshd and ssh leave the process group, but not this.
type group struct {
	dir  string
	file *os.File
}

// newGroup makes a control group of version 2.
func newGroup(name string) (*group, error) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		g := &group{dir: filepath.Join(root, name)}
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			return nil, err
		}
		var err error
		if g.file, err = os.Open(g.dir); err != nil {
			os.Remove(g.dir)
		}
		return g, err
	}
	return nil, errors.New("no control groups of version 2 are mounted")
}

// usage reads what the group has used. A process that has ended is missing from
// the peak.
func (g *group) usage() (Usage, error) {
	stat, err := os.ReadFile(filepath.Join(g.dir, "cpu.stat"))
	if err != nil {
		return Usage{}, err
	}
	var u Usage
	var micros int64
	if _, err := fmt.Fscanf(bytes.NewReader(stat), "usage_usec %d", &micros); err != nil {
		return u, err
	}
	u.CPU = float64(micros) / 1e6
	procs, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	if err != nil {
		return u, err
	}
	for pid := range strings.FieldsSeq(string(procs)) {
		u.Peak += peakOf(pid)
	}
	return u, nil
}

// peakOf returns the most MiB that a process has had in memory.
func peakOf(pid string) float64 {
	status, _ := os.ReadFile("/proc/" + pid + "/status")
	_, rest, _ := strings.Cut(string(status), "\nVmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0 // it has just ended
	}
	kib, _ := strconv.ParseFloat(fields[0], 64)
	return kib / 1024
}

// close ends what is left of the group. It may be called again.
func (g *group) close() error {
	if g == nil {
		return nil
	}
	os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0o200)
	err := os.Remove(g.dir)
	for until := time.Now().Add(10 * time.Second); errors.Is(err, syscall.EBUSY) && time.Now().Before(until); {
		time.Sleep(5 * time.Millisecond)
		err = os.Remove(g.dir)
	}
	g.file.Close()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
