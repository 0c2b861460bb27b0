package chatproto

import "github.com/rpycfs/rpycfs/rpc"

// Methods of the root service.
var (
	// Attach makes the calling session's chat session.
	Attach = rpc.Define[ChatAttachReq, ChatAttachRes](0x0200, "chat_attach", rpc.State)
)

// Methods of a listener, which the client exports and the server calls. The
// server calls them one after the other.
var (
	Deliver = rpc.Define[DeliverReq, Empty](0x0208, "chat_deliver", rpc.State)
	Cut     = rpc.Define[CutReq, Empty](0x0209, "chat_cut", rpc.State)
)

// Methods of a chat session. Releasing its reference is the log-out.
var (
	Snapshot   = rpc.Define[SnapshotReq, SnapshotRes](0x0210, "chat_snapshot", rpc.Query)
	ListRooms  = rpc.Define[ListRoomsReq, ListRoomsRes](0x0211, "chat_rooms", rpc.Query)
	CreateRoom = rpc.Define[CreateRoomReq, RoomRes](0x0212, "chat_create", rpc.Change)
	JoinRoom   = rpc.Define[JoinRoomReq, RoomRes](0x0213, "chat_join", rpc.Change)
	OpenRoom   = rpc.Define[OpenRoomReq, RoomRes](0x0214, "chat_open", rpc.State)
	OpenDirect = rpc.Define[OpenDirectReq, RoomRes](0x0215, "chat_direct", rpc.Change)
	Whisper    = rpc.Define[WhisperReq, WhisperRes](0x0216, "chat_whisper", rpc.Change)
	Search     = rpc.Define[SearchReq, SearchRes](0x0217, "chat_search", rpc.Query)
	SetAway    = rpc.Define[SetAwayReq, Empty](0x0218, "chat_away", rpc.State)

	GetDevices = rpc.Define[GetDevicesReq, GetDevicesRes](0x0220, "chat_devices", rpc.Query)
	PutDevices = rpc.Define[PutDevicesReq, Empty](0x0221, "chat_put_devices", rpc.Change)
	GetMail    = rpc.Define[GetMailReq, GetMailRes](0x0222, "chat_mail", rpc.Query)
	PutMail    = rpc.Define[PutMailReq, Empty](0x0223, "chat_put_mail", rpc.Change)
	DropMail   = rpc.Define[DropMailReq, Empty](0x0224, "chat_drop_mail", rpc.Change)
)

// Methods of a room.
var (
	Say          = rpc.Define[SayReq, SayRes](0x0230, "chat_say", rpc.Change)
	History      = rpc.Define[HistoryReq, HistoryRes](0x0231, "chat_history", rpc.Query)
	SetTopic     = rpc.Define[SetTopicReq, Empty](0x0232, "chat_topic", rpc.Change)
	Invite       = rpc.Define[MemberReq, Empty](0x0233, "chat_invite", rpc.Change)
	Remove       = rpc.Define[MemberReq, Empty](0x0234, "chat_remove", rpc.Change)
	Leave        = rpc.Define[LeaveReq, Empty](0x0235, "chat_leave", rpc.Change)
	MarkRead     = rpc.Define[MarkReadReq, Empty](0x0236, "chat_mark_read", rpc.Change)
	Typing       = rpc.Define[TypingReq, Empty](0x0237, "chat_typing", rpc.State)
	Members      = rpc.Define[MembersReq, MembersRes](0x0238, "chat_members", rpc.Query)
	SetRetention = rpc.Define[SetRetentionReq, Empty](0x0239, "chat_retention", rpc.Change)

	GetKeys = rpc.Define[GetKeysReq, GetKeysRes](0x0240, "chat_keys", rpc.Query)
	PutKeys = rpc.Define[PutKeysReq, Empty](0x0241, "chat_put_keys", rpc.Change)
	AddKeys = rpc.Define[AddKeysReq, Empty](0x0242, "chat_add_keys", rpc.Change)
)
