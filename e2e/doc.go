// Package e2e tests the programs as people run them: built binaries, real
// mounts, real tools on them. It has no code outside its tests.
//
// Environment:
//
//	RPYCFS_BIN=DIR           take the programs from DIR instead of building them
//	RPYCFS_SKIP_FUSE=1       leave out what needs /dev/fuse
//	RPYCFS_E2E_TREE=DIR      the tree to copy into a mount (a part of Go's own source)
//	RPYCFS_E2E_WORKERS=N     processes of the load tests (20)
//	RPYCFS_E2E_SECONDS=N     how long the load test runs (4)
//	RPYCFS_E2E_CUTS=N        how often the connection is cut under load (10)
//	RPYCFS_HISTORY=D         how long clients are watched for what they see of each other (5s)
//	RPYCFS_HISTORY_FAULTS=D  the same while they are stopped and cut off (5s); from 1m on
//	                         some faults last longer than the daemon waits for a client
//	RPYCFS_HISTORY_SEED=N    what these do (different each time, and printed)
package e2e
