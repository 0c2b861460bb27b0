package conformance

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// errorOrder makes calls that are wrong in one way or in several, and wants the
// error that Linux gives first.
func errorOrder(t *T) {
	t.mkdir("dir")
	t.mkdir("full")
	t.write("full/f", "")
	t.write("file", "x")
	t.write("other", "y")
	for name, target := range map[string]string{
		"todir": "dir", "tofile": "file", "dangling": "none", "loop": "loop", "self": ".", "inloop": "loop/x",
	} {
		t.ok(os.Symlink(target, t.path(name)))
	}
	t.ok(unix.Mkfifo(t.path("fifo"), 0o600))
	for _, c := range errorCalls {
		t.Run(c.what, func(sub *testing.T) {
			if err := c.call(t.dir + "/"); !is(err, c.want) {
				sub.Errorf("got error %v, want %v", err, c.want)
			}
		})
	}
	// Nothing of all that has changed anything.
	want := "dangling dir fifo file full inloop loop other self todir tofile"
	if got := strings.Join(t.names(t.dir), " "); got != want {
		t.Errorf("left %q, want %q", got, want)
	}
	t.holds("file", "x")
}

// Names that are too long: one component, and a path of 4096 bytes.
var (
	longName = strings.Repeat("n", 256)
	longPath = strings.Repeat("./", 2048)
)

func openErr(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func statErr(path string) error {
	var st unix.Stat_t
	return unix.Lstat(path, &st)
}

func readlinkErr(path string) error {
	_, err := unix.Readlink(path, make([]byte, 100))
	return err
}

func rename2(from, to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
}

const wr, creat, excl, dirFlag, nofollow, trunc = unix.O_WRONLY, unix.O_CREAT, unix.O_EXCL, unix.O_DIRECTORY, unix.O_NOFOLLOW, unix.O_TRUNC

// errorCall is one call below a directory, whose path ends with a slash.
type errorCall struct {
	what string
	call func(d string) error
	want error
}

var errorCalls = []errorCall{
	{"open empty path", func(string) error { return openErr("", 0) }, unix.ENOENT},
	{"open missing", func(d string) error { return openErr(d+"none", 0) }, unix.ENOENT},
	{"open below missing", func(d string) error { return openErr(d+"none/x", creat|wr) }, unix.ENOENT},
	{"open below file", func(d string) error { return openErr(d+"file/x", 0) }, unix.ENOTDIR},
	{"open below file dots", func(d string) error { return openErr(d+"file/..", 0) }, unix.ENOTDIR},
	{"open file slash", func(d string) error { return openErr(d+"file/", 0) }, unix.ENOTDIR},
	{"open file as directory", func(d string) error { return openErr(d+"file", dirFlag) }, unix.ENOTDIR},
	{"open fifo as directory", func(d string) error { return openErr(d+"fifo", dirFlag) }, unix.ENOTDIR},
	{"open fifo to write", func(d string) error { return openErr(d+"fifo", wr) }, unix.ENXIO},
	{"open directory to write", func(d string) error { return openErr(d+"dir", wr) }, unix.EISDIR},
	{"open directory truncating", func(d string) error { return openErr(d+"dir", trunc|wr) }, unix.EISDIR},
	{"create directory", func(d string) error { return openErr(d+"dir", creat|wr) }, unix.EISDIR},
	{"create directory to read", func(d string) error { return openErr(d+"dir", creat) }, unix.EISDIR},
	{"create directory exclusively", func(d string) error { return openErr(d+"dir", creat|excl|wr) }, unix.EEXIST},
	{"create with slash", func(d string) error { return openErr(d+"new/", creat|wr) }, unix.EISDIR},
	{"create dot", func(d string) error { return openErr(d+"dir/.", creat|wr) }, unix.EISDIR},
	{"create exclusively dangling", func(d string) error { return openErr(d+"dangling", creat|excl|wr) }, unix.EEXIST},
	{"create exclusively loop", func(d string) error { return openErr(d+"loop", creat|excl|wr) }, unix.EEXIST},
	{"open dangling", func(d string) error { return openErr(d+"dangling", 0) }, unix.ENOENT},
	{"open loop", func(d string) error { return openErr(d+"loop", 0) }, unix.ELOOP},
	{"open through loop", func(d string) error { return openErr(d+"inloop", 0) }, unix.ELOOP},
	{"open link nofollow", func(d string) error { return openErr(d+"tofile", nofollow) }, unix.ELOOP},
	{"open link nofollow as directory", func(d string) error { return openErr(d+"todir", nofollow|dirFlag) }, unix.ENOTDIR},
	{"open long name", func(d string) error { return openErr(d+longName, creat|wr) }, unix.ENAMETOOLONG},
	{"open long name below missing", func(d string) error { return openErr(d+"none/"+longName, 0) }, unix.ENOENT},
	{"open long name below file", func(d string) error { return openErr(d+"file/"+longName, 0) }, unix.ENOTDIR},
	{"open long path", func(d string) error { return openErr(d+longPath+"none", 0) }, unix.ENAMETOOLONG},
	{"stat long name", func(d string) error { return statErr(d + longName) }, unix.ENAMETOOLONG},
	{"stat file slash", func(d string) error { return statErr(d + "file/") }, unix.ENOTDIR},
	{"stat dangling slash", func(d string) error { return statErr(d + "dangling/") }, unix.ENOENT},
	{"stat loop slash", func(d string) error { return statErr(d + "loop/") }, unix.ELOOP},
	{"mkdir file", func(d string) error { return unix.Mkdir(d+"file", 0o700) }, unix.EEXIST},
	{"mkdir file slash", func(d string) error { return unix.Mkdir(d+"file/", 0o700) }, unix.EEXIST},
	{"mkdir dangling", func(d string) error { return unix.Mkdir(d+"dangling", 0o700) }, unix.EEXIST},
	{"mkdir dot", func(d string) error { return unix.Mkdir(d+"dir/.", 0o700) }, unix.EEXIST},
	{"mkdir dots", func(d string) error { return unix.Mkdir(d+"dir/..", 0o700) }, unix.EEXIST},
	{"mkdir below missing", func(d string) error { return unix.Mkdir(d+"none/x", 0o700) }, unix.ENOENT},
	{"mkdir below file", func(d string) error { return unix.Mkdir(d+"file/x", 0o700) }, unix.ENOTDIR},
	{"mkdir long name", func(d string) error { return unix.Mkdir(d+longName, 0o700) }, unix.ENAMETOOLONG},
	{"mkfifo existing", func(d string) error { return unix.Mkfifo(d+"dir", 0o600) }, unix.EEXIST},
	{"mkfifo slash", func(d string) error { return unix.Mkfifo(d+"new/", 0o600) }, unix.ENOENT},
	{"mkfifo long name", func(d string) error { return unix.Mkfifo(d+longName, 0o600) }, unix.ENAMETOOLONG},
	{"symlink existing", func(d string) error { return unix.Symlink("x", d+"dangling") }, unix.EEXIST},
	{"symlink slash", func(d string) error { return unix.Symlink("x", d+"new/") }, unix.ENOENT},
	{"symlink empty", func(d string) error { return unix.Symlink("", d+"new") }, unix.ENOENT},
	{"symlink empty to existing", func(d string) error { return unix.Symlink("", d+"file") }, unix.ENOENT},
	{"symlink long target", func(d string) error { return unix.Symlink(longPath, d+"file") }, unix.ENAMETOOLONG},
	{"readlink file", func(d string) error { return readlinkErr(d + "file") }, unix.EINVAL},
	{"readlink directory", func(d string) error { return readlinkErr(d + "dir") }, unix.EINVAL},
	{"readlink slash", func(d string) error { return readlinkErr(d + "todir/") }, unix.EINVAL},
	{"unlink directory", func(d string) error { return unix.Unlink(d + "dir") }, unix.EISDIR},
	{"unlink directory slash", func(d string) error { return unix.Unlink(d + "dir/") }, unix.EISDIR},
	{"unlink file slash", func(d string) error { return unix.Unlink(d + "file/") }, unix.ENOTDIR},
	{"unlink link slash", func(d string) error { return unix.Unlink(d + "todir/") }, unix.ENOTDIR},
	{"unlink missing slash", func(d string) error { return unix.Unlink(d + "none/") }, unix.ENOENT},
	{"unlink dot", func(d string) error { return unix.Unlink(d + "dir/.") }, unix.EISDIR},
	{"unlink long name", func(d string) error { return unix.Unlink(d + longName) }, unix.ENAMETOOLONG},
	{"rmdir file", func(d string) error { return unix.Rmdir(d + "file") }, unix.ENOTDIR},
	{"rmdir link", func(d string) error { return unix.Rmdir(d + "todir") }, unix.ENOTDIR},
	{"rmdir link slash", func(d string) error { return unix.Rmdir(d + "todir/") }, unix.ENOTDIR},
	{"rmdir full", func(d string) error { return unix.Rmdir(d + "full") }, unix.ENOTEMPTY},
	{"rmdir dot", func(d string) error { return unix.Rmdir(d + "full/.") }, unix.EINVAL},
	{"rmdir dots", func(d string) error { return unix.Rmdir(d + "dir/..") }, unix.ENOTEMPTY},
	{"rename missing", func(d string) error { return unix.Rename(d+"none", d+"file") }, unix.ENOENT},
	{"rename missing onto below file", func(d string) error { return unix.Rename(d+"none", d+"file/x") }, unix.ENOTDIR},
	{"rename empty", func(d string) error { return unix.Rename("", d+"file") }, unix.ENOENT},
	{"rename file onto directory", func(d string) error { return unix.Rename(d+"file", d+"dir") }, unix.EISDIR},
	{"rename directory onto file", func(d string) error { return unix.Rename(d+"dir", d+"file") }, unix.ENOTDIR},
	{"rename directory onto full", func(d string) error { return unix.Rename(d+"dir", d+"full") }, unix.ENOTEMPTY},
	{"rename into itself", func(d string) error { return unix.Rename(d+"dir", d+"dir/x") }, unix.EINVAL},
	{"rename onto ancestor", func(d string) error { return unix.Rename(d+"full/f", d+"full") }, unix.ENOTEMPTY},
	{"rename file slash", func(d string) error { return unix.Rename(d+"file/", d+"new") }, unix.ENOTDIR},
	{"rename file to slash", func(d string) error { return unix.Rename(d+"file", d+"new/") }, unix.ENOTDIR},
	{"rename dot", func(d string) error { return unix.Rename(d+"dir/.", d+"new") }, unix.EBUSY},
	{"rename to dots", func(d string) error { return unix.Rename(d+"dir", d+"full/..") }, unix.EBUSY},
	{"rename long name", func(d string) error { return unix.Rename(d+"file", d+longName) }, unix.ENAMETOOLONG},
	{"rename elsewhere", func(d string) error { return unix.Rename(d+"file", "/proc/x") }, unix.EXDEV},
	{"rename noreplace", func(d string) error { return rename2(d+"file", d+"dangling", unix.RENAME_NOREPLACE) }, unix.EEXIST},
	{"rename noreplace itself", func(d string) error { return rename2(d+"file", d+"file", unix.RENAME_NOREPLACE) }, unix.EEXIST},
	{"rename exchange missing", func(d string) error { return rename2(d+"file", d+"none", unix.RENAME_EXCHANGE) }, unix.ENOENT},
	{"rename exchange ancestor", func(d string) error { return rename2(d+"full/f", d+"full", unix.RENAME_EXCHANGE) }, unix.EINVAL},
	{"rename both flags", func(d string) error {
		return rename2(d+"file", d+"other", unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE)
	}, unix.EINVAL},
	{"rename unknown flag", func(d string) error { return rename2(d+"file", d+"other", 1<<20) }, unix.EINVAL},
	{"link directory", func(d string) error { return unix.Link(d+"dir", d+"new") }, unix.EPERM},
	{"link directory onto file", func(d string) error { return unix.Link(d+"dir", d+"file") }, unix.EEXIST},
	{"link onto itself", func(d string) error { return unix.Link(d+"file", d+"file") }, unix.EEXIST},
	{"link missing", func(d string) error { return unix.Link(d+"none", d+"file") }, unix.ENOENT},
	{"link file slash", func(d string) error { return unix.Link(d+"file/", d+"new") }, unix.ENOTDIR},
	{"link to slash", func(d string) error { return unix.Link(d+"file", d+"new/") }, unix.ENOENT},
	{"link long name", func(d string) error { return unix.Link(d+"file", d+longName) }, unix.ENAMETOOLONG},
	{"link elsewhere", func(d string) error { return unix.Link(d+"file", "/dev/none") }, unix.EXDEV},
	{"truncate directory", func(d string) error { return unix.Truncate(d+"dir", 0) }, unix.EISDIR},
	{"truncate negative directory", func(d string) error { return unix.Truncate(d+"dir", -1) }, unix.EINVAL},
	{"truncate fifo", func(d string) error { return unix.Truncate(d+"fifo", 0) }, unix.EINVAL},
	{"truncate loop", func(d string) error { return unix.Truncate(d+"loop", 0) }, unix.ELOOP},
	{"truncate too large", func(d string) error { return unix.Truncate(d+"file", 1<<63-1) }, unix.EFBIG},
	{"chmod dangling", func(d string) error { return unix.Chmod(d+"dangling", 0o600) }, unix.ENOENT},
	{"chmod loop", func(d string) error { return unix.Chmod(d+"loop", 0o600) }, unix.ELOOP},
	{"chmod file slash", func(d string) error { return unix.Chmod(d+"file/", 0o600) }, unix.ENOTDIR},
	{"chmod link itself", func(d string) error {
		return unix.Fchmodat(unix.AT_FDCWD, d+"tofile", 0o600, unix.AT_SYMLINK_NOFOLLOW)
	}, unix.EOPNOTSUPP},
	{"chown missing", func(d string) error { return unix.Lchown(d+"none", 0, 0) }, unix.ENOENT},
	{"utimensat nanoseconds", func(d string) error {
		ts := []unix.Timespec{{Nsec: 1_000_000_000}, {Nsec: unix.UTIME_OMIT}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, d+"file", ts, 0)
	}, unix.EINVAL},
	{"access mode", func(d string) error { return unix.Faccessat2(unix.AT_FDCWD, d+"none", 8, 0) }, unix.EINVAL},
	{"chdir file", func(d string) error { return unix.Chdir(d + "file") }, unix.ENOTDIR},
	{"statfs missing", func(d string) error { var fs unix.Statfs_t; return unix.Statfs(d+"none", &fs) }, unix.ENOENT},
	{"getxattr missing", func(d string) error { _, err := unix.Getxattr(d+"none", "user.x", nil); return err }, unix.ENOENT},
	{"setxattr both flags", func(d string) error { return unix.Setxattr(d+"file", "user.x", nil, 3) }, unix.ENODATA},
}

// is reports whether err is exactly the error.
func is(err, want error) bool { return fmt.Sprint(err) == fmt.Sprint(want) }
