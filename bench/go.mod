module github.com/rpycfs/rpycfs/bench

go 1.26.0

replace github.com/rpycfs/rpycfs => ../

require (
	github.com/rpycfs/rpycfs v0.0.0
	google.golang.org/grpc v1.85.0
)

require (
	github.com/hashicorp/yamux v0.1.2 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
