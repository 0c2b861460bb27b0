package fsproto

import "github.com/rpycfs/rpycfs/rpc"

// The operations of the file service. Each is spelled like its system call.
// Operations that only look are queries; those that make or end something that
// belongs to the session are state; those that alter the tree are changes and
// are refused on a read-only export. Open is state because reading needs it:
// its handler refuses what would write or truncate on a read-only export.
var (
	Attach  = rpc.Define[AttachReq, AttachRes](0x0100, "attach", rpc.State)
	Resolve = rpc.Define[ResolveReq, EntryRes](0x0101, "resolve", rpc.State)
	Forget  = rpc.Define[ForgetReq, Empty](0x0102, "forget", rpc.State)
	Cred    = rpc.Define[CredReq, Empty](0x0103, "cred", rpc.State)
	Names   = rpc.Define[NamesReq, NamesRes](0x0104, "names", rpc.Query)
	IDs     = rpc.Define[IDsReq, IDsRes](0x0105, "ids", rpc.Query)
	Leases  = rpc.Define[LeasesReq, LeasesRes](0x0106, "leases", rpc.State)
	Watch   = rpc.Define[WatchReq, WatchRes](0x0107, "watch", rpc.State)

	Lookup   = rpc.Define[LookupReq, LookupRes](0x0110, "lookup", rpc.Query)
	Getattr  = rpc.Define[GetattrReq, AttrRes](0x0111, "getattr", rpc.Query)
	Setattr  = rpc.Define[SetattrReq, AttrRes](0x0112, "setattr", rpc.Change)
	Access   = rpc.Define[AccessReq, AttrRes](0x0113, "access", rpc.Query)
	Statfs   = rpc.Define[StatfsReq, StatfsRes](0x0114, "statfs", rpc.Query)
	Readlink = rpc.Define[ReadlinkReq, ReadlinkRes](0x0115, "readlink", rpc.Query)
	Syncfs   = rpc.Define[SyncfsReq, Empty](0x0116, "syncfs", rpc.Query)

	Open          = rpc.Define[OpenReq, OpenRes](0x0120, "open", rpc.State)
	Create        = rpc.Define[CreateReq, CreateRes](0x0121, "create", rpc.Change)
	Read          = rpc.Define[ReadReq, AttrRes](0x0122, "read", rpc.Query, rpc.ReturnsData, rpc.Compresses)
	Write         = rpc.Define[WriteReq, WriteRes](0x0123, "write", rpc.Change, rpc.CarriesData, rpc.Compresses)
	Fsync         = rpc.Define[FsyncReq, AttrRes](0x0125, "fsync", rpc.State)
	Release       = rpc.Define[ReleaseReq, Empty](0x0126, "release", rpc.State)
	Fallocate     = rpc.Define[FallocateReq, AttrRes](0x0127, "fallocate", rpc.Change)
	Lseek         = rpc.Define[LseekReq, LseekRes](0x0128, "lseek", rpc.Query)
	CopyFileRange = rpc.Define[CopyReq, CopyRes](0x0129, "copy_file_range", rpc.Change)
	Tmpfile       = rpc.Define[TmpfileReq, CreateRes](0x012a, "tmpfile", rpc.Change)
	Readfile      = rpc.Define[ReadfileReq, ReadfileRes](0x012b, "readfile", rpc.Query, rpc.Compresses)
	Releases      = rpc.Define[ReleasesReq, Empty](0x012c, "releases", rpc.State)

	Opendir = rpc.Define[OpenReq, OpenRes](0x0130, "opendir", rpc.State)
	Readdir = rpc.Define[ReaddirReq, ReaddirRes](0x0131, "readdir", rpc.Query, rpc.Compresses)
	Tree    = rpc.Define[TreeReq, TreeRes](0x0132, "tree", rpc.Query, rpc.Compresses)

	Mkdir   = rpc.Define[MkdirReq, CreateNodeRes](0x0140, "mkdir", rpc.Change)
	Mknod   = rpc.Define[MknodReq, CreateNodeRes](0x0141, "mknod", rpc.Change)
	Symlink = rpc.Define[SymlinkReq, CreateNodeRes](0x0142, "symlink", rpc.Change)
	Link    = rpc.Define[LinkReq, CreateNodeRes](0x0143, "link", rpc.Change)
	Unlink  = rpc.Define[UnlinkReq, UnlinkRes](0x0144, "unlink", rpc.Change)
	Rmdir   = rpc.Define[UnlinkReq, UnlinkRes](0x0145, "rmdir", rpc.Change)
	Rename  = rpc.Define[RenameReq, RenameRes](0x0146, "rename", rpc.Change)

	Getxattr    = rpc.Define[GetxattrReq, XattrRes](0x0150, "getxattr", rpc.Query)
	Setxattr    = rpc.Define[SetxattrReq, AttrRes](0x0151, "setxattr", rpc.Change)
	Listxattr   = rpc.Define[NodeReq, ListxattrRes](0x0152, "listxattr", rpc.Query)
	Removexattr = rpc.Define[RemovexattrReq, AttrRes](0x0153, "removexattr", rpc.Change)

	Getlk    = rpc.Define[GetlkReq, GetlkRes](0x0160, "getlk", rpc.Query)
	Setlk    = rpc.Define[SetlkReq, SetlkRes](0x0161, "setlk", rpc.State)
	Cancellk = rpc.Define[CancellkReq, CancellkRes](0x0162, "cancellk", rpc.State)

	// Called by the server.
	LkGranted = rpc.Define[LkGrantedReq, Empty](0x0170, "lk_granted", rpc.State, rpc.Quick)
	LocksLost = rpc.Define[LocksLostReq, Empty](0x0171, "locks_lost", rpc.State, rpc.Quick)
	Recall    = rpc.Define[RecallReq, Empty](0x0172, "recall", rpc.Query)
	Events    = rpc.Define[EventsReq, Empty](0x0174, "events", rpc.State, rpc.Quick)

	// Called by the server on the listener of a watch.
	WatchEvents = rpc.Define[WatchEventsReq, Empty](0x0173, "watch_events", rpc.State)
)

// ServerCalls reports whether it is the server that calls the operation with
// this number, and the client that answers it.
func ServerCalls(number uint16) bool { return number&^0xf == LkGranted.Number }
