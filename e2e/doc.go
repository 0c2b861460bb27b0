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
//	RPYCFS_CAMPAIGN=D        how long programs work while connections and the daemon fail (a
//	                         few seconds); from 1m on there are 1 to 10 s between faults
//	RPYCFS_CAMPAIGN_SEED=N   which faults (different each time, and printed)
//	RPYCFS_ONE_DIRECTORY=D   how long processes change names in one directory (3s); if it is
//	                         given, no call of theirs may take longer than a second
//	RPYCFS_FLOOD=D           how long the server's disk is changed at full speed (a number of
//	                         changes); on a tmpfs, by TMPDIR, it is fastest
//	RPYCFS_DELAYS=N          changes after which it is measured how soon they are seen (30);
//	                         if it is given, late ones fail the test
//	RPYCFS_STORES=N          the same for stores into mappings (3)
//	RPYCFS_INOTIFYWAIT=N     changes of which inotifywait tells (40)
//	RPYCFS_INOTIFYWAIT_SEED=N  which changes (1)
//	RPYCFS_HISTORY=D         how long clients are watched for what they see of each other (5s)
//	RPYCFS_HISTORY_FAULTS=D  the same while they are stopped and cut off (5s); from 1m on
//	                         some faults last longer than the daemon waits for a client
//	RPYCFS_HISTORY_SEED=N    what these do (different each time, and printed)
package e2e
