package mount

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"github.com/rpycfs/rpycfs/fsproto"
)

// groupsOf returns the supplementary groups of a thread, from its
// /proc/PID/status as libfuse's fuse_req_getgroups(3) does, at most
// fsproto.MaxGroups. There are none for a thread that is gone or not to be seen
// from here, nor for one that does not act as uid and gid: a number that
// another process has got meanwhile, or a kernel thread that acts for somebody.
func groupsOf(tid, uid, gid uint32) []uint32 {
	if tid == 0 {
		return nil
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return nil
	}
	return groupsIn(status, uid, gid)
}

// groupsIn reads the groups in a /proc/PID/status if the ids by which files are
// accessed, the last ones of four, are uid and gid.
func groupsIn(status []byte, uid, gid uint32) (groups []uint32) {
	if !actsAs(status, "Uid", uid) || !actsAs(status, "Gid", gid) {
		return nil
	}
	for field := range bytes.FieldsSeq(statusLine(status, "Groups")) {
		id, ok := parseID(field)
		if !ok {
			return nil
		}
		if len(groups) == fsproto.MaxGroups {
			break
		}
		groups = append(groups, id)
	}
	return groups
}

func actsAs(status []byte, name string, id uint32) bool {
	ids := bytes.Fields(statusLine(status, name))
	if len(ids) != 4 {
		return false
	}
	fsid, ok := parseID(ids[3])
	return ok && fsid == id
}

func parseID(text []byte) (uint32, bool) {
	id, err := strconv.ParseUint(string(text), 10, 32)
	return uint32(id), err == nil
}

// statusLine returns what stands behind "name:" in a /proc/PID/status.
func statusLine(status []byte, name string) []byte {
	for line := range bytes.Lines(status) {
		if n, value, ok := bytes.Cut(line, []byte(":")); ok && string(n) == name {
			return bytes.TrimSpace(value)
		}
	}
	return nil
}
