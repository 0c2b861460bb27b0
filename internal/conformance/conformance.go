// Package conformance is a table of what programs may expect of a directory on
// a local disk. It runs over a plain directory, where it must pass, and over a
// mount, where it must pass too.
package conformance

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Feature is something that not every file system offers.
type Feature uint

const (
	// Owners: root may give files away and set set-id bits.
	Owners Feature = 1 << iota
	// Devices: root may make device nodes.
	Devices
	// Tmpfile: O_TMPFILE works.
	Tmpfile
	// Birth: statx tells the birth time.
	Birth
	// ACLs: POSIX access control lists.
	ACLs
)

// All features of a plain directory.
const All = Owners | Devices | Tmpfile | Birth | ACLs

// test is one row of the table.
type test struct {
	run   func(*T)
	needs Feature
}

// T is a test with an empty directory of its own.
type T struct {
	*testing.T
	dir string
}

// Run runs the table in fresh directories below dir. Rows that need a feature
// which is not in features are left out, as are those that need root when the
// caller is not. If names are given, only the rows whose names begin so are run.
func Run(t *testing.T, dir string, features Feature, only ...string) {
	if os.Geteuid() != 0 {
		features &^= Owners | Devices
	}
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	names := make([]string, 0, len(table))
	for name, row := range table {
		if row.needs&^features == 0 && chosen(name, only) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			sub, err := os.MkdirTemp(dir, "c")
			if err != nil {
				t.Fatal(err)
			}
			table[name].run(&T{t, sub})
			if !t.Failed() {
				if err := os.RemoveAll(sub); err != nil {
					t.Errorf("clean up: %v", err)
				}
			}
		})
	}
}

func chosen(name string, only []string) bool {
	return len(only) == 0 || slices.ContainsFunc(only, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (t *T) path(name string) string { return filepath.Join(t.dir, name) }

// ok ends the test at an error.
func (t *T) ok(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails wants exactly this error number.
func (t *T) fails(err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func (t *T) write(name, content string) string {
	t.Helper()
	p := t.path(name)
	t.ok(os.WriteFile(p, []byte(content), 0o644))
	return p
}

func (t *T) mkdir(name string) string {
	t.Helper()
	p := t.path(name)
	t.ok(os.Mkdir(p, 0o755))
	return p
}

func (t *T) holds(name, want string) {
	t.Helper()
	got, err := os.ReadFile(t.path(name))
	if err != nil {
		t.Error(err)
	} else if string(got) != want {
		t.Errorf("%s holds %.60q (%d bytes), want %.60q (%d bytes)", name, got, len(got), want, len(want))
	}
}

func (t *T) missing(name string) {
	t.Helper()
	_, err := os.Lstat(t.path(name))
	t.fails(err, syscall.ENOENT)
}

func (t *T) stat(name string) *syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	t.ok(syscall.Lstat(t.path(name), &st))
	return &st
}

func (t *T) open(name string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(t.path(name), flags, 0o644)
	t.ok(err)
	t.Cleanup(func() { f.Close() })
	return f
}

// names lists a directory, sorted.
func (t *T) names(dir string) []string {
	t.Helper()
	f, err := os.Open(dir)
	t.ok(err)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	t.ok(err)
	sort.Strings(names)
	return names
}

func stamp(sec, nsec int64) time.Time { return time.Unix(sec, nsec) }

// table holds every test by name.
var table = map[string]test{
	"CreateModes":     {run: createModes},
	"CreateExclusive": {run: createExclusive},
	"OpenErrors":      {run: openErrors},
	"ErrorOrder":      {run: errorOrder},
	"ChangeTimes":     {run: changeTimes},
	"CreateModesAll":  {run: createModesAll},
	"LargeOffsets":    {run: largeOffsets},
	"CopyWithin":      {run: copyWithin},
	"UnlinkedMapped":  {run: unlinkedMapped},

	"PathMax":          {run: pathMax},
	"DeeperThanPaths":  {run: deeperThanPaths},
	"LinkChains":       {run: linkChains},
	"LongTargets":      {run: longTargets},
	"AnyBytes":         {run: anyBytes},
	"SeekAfterChanges": {run: seekAfterChanges},
	"DirRemade":        {run: dirRemade},
	"PathAfterRename":  {run: pathAfterRename},

	"OpenTruncate":         {run: openTruncate},
	"OpenNoFollow":         {run: openNoFollow},
	"OpenDirectory":        {run: openDirectory},
	"ReadWriteAt":          {run: readWriteAt},
	"AccessModes":          {run: accessModes},
	"WriteLarge":           {run: writeLarge},
	"WriteVectors":         {run: writeVectors},
	"Append":               {run: appendWrites},
	"AppendTwo":            {run: appendTwo},
	"AppendFcntl":          {run: appendFcntl},
	"AppendMmap":           {run: appendMmap},
	"Truncate":             {run: truncate},
	"TruncateErrors":       {run: truncateErrors},
	"TruncateSeenByOthers": {run: truncateSeen},
	"Holes":                {run: holes},
	"SeekDataHole":         {run: seekDataHole},
	"Fallocate":            {run: fallocate},
	"FallocateErrors":      {run: fallocateErrors},
	"CopyFileRange":        {run: copyFileRange},
	"CopyOverlap":          {run: copyOverlap},
	"Fsync":                {run: fsync},
	"SyncWrites":           {run: syncWrites},
	"DirectIO":             {run: directIO},
	"MmapShared":           {run: mmapShared},
	"MmapPrivate":          {run: mmapPrivate},
	"ManyReaders":          {run: manyReaders},
	"UnlinkOpen":           {run: unlinkOpen},
	"UnlinkErrors":         {run: unlinkErrors},
	"UnlinkOpenAttrs":      {run: unlinkOpenAttrs},
	"RenameOpen":           {run: renameOpen},

	"Mkdir":              {run: mkdir},
	"MkdirErrors":        {run: mkdirErrors},
	"RmdirErrors":        {run: rmdirErrors},
	"RmdirOpen":          {run: rmdirOpen},
	"DirLinkCount":       {run: dirLinkCount},
	"Rename":             {run: rename},
	"RenameReplace":      {run: renameReplace},
	"RenameDirs":         {run: renameDirs},
	"RenameErrors":       {run: renameErrors},
	"RenameNoReplace":    {run: renameNoReplace},
	"RenameExchange":     {run: renameExchange},
	"RenameFlagErrors":   {run: renameFlagErrors},
	"RenameSameFile":     {run: renameSameFile},
	"Link":               {run: link},
	"LinkErrors":         {run: linkErrors},
	"LinkOpenUnlinked":   {run: linkKeepsData},
	"Symlink":            {run: symlink},
	"SymlinkErrors":      {run: symlinkErrors},
	"SymlinkWalk":        {run: symlinkWalk},
	"LongNames":          {run: longNames},
	"OddNames":           {run: oddNames},
	"DeepTree":           {run: deepTree},
	"ReaddirMany":        {run: readdirMany},
	"ReaddirUnlink":      {run: readdirUnlink},
	"ReaddirRewind":      {run: readdirRewind},
	"ReaddirSeek":        {run: readdirSeek},
	"ReaddirDots":        {run: readdirDots},
	"ReaddirTypes":       {run: readdirTypes},
	"ReaddirSmallBuffer": {run: readdirSmallBuffer},
	"ReaddirFresh":       {run: readdirFresh},
	"FsyncDir":           {run: fsyncDir},
	"NegativeEntry":      {run: negativeEntry},

	"Chmod":           {run: chmod},
	"ChmodErrors":     {run: chmodErrors},
	"Umask":           {run: umask},
	"Times":           {run: times},
	"TimesOmit":       {run: timesOmit},
	"TimesSymlink":    {run: timesSymlink},
	"TimesAdvance":    {run: timesAdvance},
	"Chown":           {run: chown, needs: Owners},
	"ChownSelf":       {run: chownSelf},
	"SetIDBits":       {run: setIDBits, needs: Owners},
	"Access":          {run: access},
	"Statfs":          {run: statfs},
	"StatFields":      {run: statFields},
	"InodeStable":     {run: inodeStable},
	"BirthTime":       {run: birthTime, needs: Birth},
	"Fifo":            {run: fifo},
	"Socket":          {run: socket},
	"MknodRegular":    {run: mknodRegular},
	"Device":          {run: device, needs: Devices},
	"TmpfileLink":     {run: tmpfileLink, needs: Tmpfile},
	"TmpfileVanishes": {run: tmpfileVanishes, needs: Tmpfile},
	"XattrRoundTrip":  {run: xattrRoundTrip},
	"XattrErrors":     {run: xattrErrors},
	"XattrFlags":      {run: xattrFlags},
	"XattrSizes":      {run: xattrSizes},
	"XattrDir":        {run: xattrDir},
	"XattrTrusted":    {run: xattrTrusted, needs: Owners},
	"XattrCapability": {run: xattrCapability, needs: Owners},
	"ACLAccess":       {run: aclAccess, needs: ACLs},
	"ACLDefault":      {run: aclDefault, needs: ACLs},
	"IoctlUnknown":    {run: ioctlUnknown},
	"LockRanges":      {run: lockRanges},
	"LockErrors":      {run: lockErrors},
	"LockClose":       {run: lockClose},
	"LockFlock":       {run: lockFlock},
	"LockWaits":       {run: lockWaits},
	"Exec":            {run: execFile},
}
