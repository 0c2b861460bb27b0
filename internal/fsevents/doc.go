// Package fsevents tells of changes that other processes make to files and
// directories of this machine, within a millisecond. Who caches something watches
// it, then reads it, and drops what it has read at an event about it.
//
// # Methods
//
// Fanotify(7) with a mark on the file system is the best: a watch is an entry of a
// map, and nothing of this process's own comes back. It needs root. Events of the
// whole file system arrive, also from outside the exported tree; what is not watched
// is dropped without an allocation, unless somebody wants it all (WatchAll). Each costs this process about 1.5 µs, nearly all
// of it the kernel's, and the one that made it a little.
//
// FanotifyDirs is fanotify with a mark per object, for ordinary users too. Own
// events are told apart as well: the kernel hides from an ordinary user who caused an
// event, but not from the causer. A mark holds its object and a descriptor of it, so
// that a removed directory stays until Unwatch and has no DeleteSelf; at most a
// quarter of the process's descriptors are used, and fs.fanotify.max_user_marks of
// the kernel's.
//
// Inotify(7) is what is left: kernels before 5.17, and where file handles cannot be
// had. Own changes come too. A move comes in two halves, which are joined; if the
// second does not follow within five milliseconds, each half is a Rename of its own.
//
// None, where others change the file system past this kernel. An overlay changes
// through this kernel, unless somebody writes to its layers beneath it; it has
// FanotifyDirs from Linux 6.6 on, or Fanotify if it was mounted with nfs_export=on.
//
// # What comes
//
// An event names the directory and the entry by which the change was made, and with
// fanotify the object behind it. One change may be several events, and several
// changes one: the kernel joins what has not been read, and so does a batch. TestScript
// lists what comes of which system call.
//
//   - An entry that is replaced by a rename has no Delete: the Rename's new place
//     says it. An exchange is two Renames.
//   - Changes of an open file that was removed come under the name that it had. By
//     then another file may have that name; Target tells them apart.
//   - A file without a name (O_TMPFILE) has one that nobody could have given.
//   - Number of links: a link(2) or unlink(2) gives no Attrib of the file's other names.
//     Only with Fanotify, or if the file itself is watched, does Target say so.
//   - DeleteSelf comes when the last descriptor is closed, a Delete in the parent at
//     once.
//
// # What does not come
//
//   - Stores into a shared mapping, msync(2) included. The only event is a CloseWrite
//     when the last mapping and descriptor of that open have ended. Who must be right
//     meanwhile compares attributes of what is leased now and then, or gets from the
//     kernel that nobody has the file open for writing (F_SETLEASE).
//   - Changes through another name of a file in a directory that is not watched. Watch
//     the file itself if it has more than one link.
//   - Attributes of a subdirectory that is not watched (inotify alone tells of them),
//     and with them its times when entries come and go in it. Watch it.
//   - Access times of reading, and what changes in the file system by itself: quota,
//     snapshots taken or rolled back, an image that is written to beneath it.
//
// Overflow says that events were lost, because they came faster than Handle dealt
// with them (fs.fanotify.max_queued_events, fs.inotify.max_queued_events; 16384 as a
// rule). Everything that is watched may have changed.
package fsevents
