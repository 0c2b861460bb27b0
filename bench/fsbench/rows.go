package main

// Names of the peers in the table.
const (
	peerLocal    = "ext4"
	peerLoopback = "FUSE loopback"
	peerSSHFS    = "sshfs"
	peerTuned    = "sshfs tuned"
	peerRclone   = "rclone"
	peerRpycfs   = "rpycfs"
	peerOld      = "rpycfs old"
	peerTCP      = "plain TCP"
	peerTLS      = "plain TLS"
)

// Names of the rows.
const (
	rowRead         = "sequential read, cold"
	rowReadServer   = "sequential read, server warm"
	rowReadWarm     = "sequential read, warm"
	rowWrite        = "sequential write + fsync"
	rowRandom1      = "4 KiB random reads, 1 thread"
	rowRandom16     = "4 KiB random reads, 16 threads"
	rowRandom1Warm  = "4 KiB random reads, 1 thread, server warm"
	rowRandom16Warm = "4 KiB random reads, 16 threads, server warm"
	rowCreate1      = "small files created, 1 thread"
	rowCreate16     = "small files created, 16 threads"
	rowStat         = "stat of all, cold"
	rowStatWarm     = "stat of all, warm"
	rowList         = "ls -l, cold"
	rowListWarm     = "ls -l, warm"
	rowFind         = "find, cold"
	rowFindWarm     = "find, warm"
	rowGrep         = "grep -r, cold"
	rowGrepWarm     = "grep -r, warm"
	rowStatus       = "git status, cold"
	rowStatusWarm   = "git status, warm"
	rowCopy         = "copy out, cold"
	rowUntar        = "untar"
	rowClone        = "git clone"
	rowRemove       = "rm -rf"
	rowBuild        = "go build"
	rowSQLite       = "SQLite inserts"
	rowCall         = "small call beside four reads, p99"
)

// Units that figures are shown in. Of rates more is better, of times less.
const (
	unitMiB    = "MiB/s"
	unitReads  = "reads/s"
	unitTime   = "s"
	unitMillis = "ms"
)

func isRate(unit string) bool { return unit == unitMiB || unit == unitReads }

// tunedOptions make sshfs as fast as it gets without giving up encryption.
var tunedOptions = []string{
	"Ciphers=aes128-gcm@openssh.com", "max_conns=2", "kernel_cache",
	"entry_timeout=3600,attr_timeout=3600,negative_timeout=3600",
	"dcache_timeout=3600,dcache_max_size=100000",
}

// rcloneOptions write back as soon as can be; with 0s what waits is not counted.
var rcloneOptions = []string{"--vfs-cache-mode", "full", "--vfs-write-back", "100ms"}

// Measures of a target.
const (
	ofSpeed  = "speed"        // ratio, more is better
	ofCPU    = "CPU"          // seconds of both sides, ratio, less is better
	ofMillis = "milliseconds" // of the row itself, less is better
	ofMemory = "MiB per side" // the highest of all rows, less is better
)

// bestSSHFS stands for whichever of sshfs and sshfs tuned is better in the row.
const bestSSHFS = "best sshfs"

// Target is what the project promises of a row over the links that link, a part
// of their names, fits.
type Target struct {
	Row, Link, Base string
	Measure         string
	Must            float64
}

func targets() []Target {
	const near, far, farther = linkLoopback, "30ms", "100ms"
	sshfs := func(row, link string, must float64) Target { return Target{row, link, bestSSHFS, ofSpeed, must} }
	all := []Target{
		sshfs(rowRead, near, 3),
		sshfs(rowWrite, near, 1.3),
		sshfs(rowRandom1, near, 1.6),
		sshfs(rowRandom16, near, 1.4),
		sshfs(rowCreate1, near, 2),
		sshfs(rowCreate16, near, 1),
		sshfs(rowUntar, near, 2),
		sshfs(rowStatus, near, 8),
		sshfs(rowGrep, near, 2),
		sshfs(rowCopy, near, 1.7),
		sshfs(rowFind, far, 50),
		sshfs(rowStatus, far, 50),
		sshfs(rowGrep, far, 40),
		sshfs(rowCopy, far, 40),
		sshfs(rowUntar, far, 2.5),
		{rowCall, near, "", ofMillis, 3},
		{rowRead, near, bestSSHFS, ofCPU, 0.4},
		{"", "", "", ofMemory, 256},
	}
	for _, row := range []string{rowStatWarm, rowFindWarm, rowStatusWarm, rowListWarm} {
		all = append(all, Target{row, "", peerLocal, ofSpeed, 1 / 2.})
	}
	all = append(all, Target{rowGrepWarm, "", peerLocal, ofSpeed, 1 / 5.})
	for _, link := range []string{far, farther} {
		for _, row := range []string{rowRead, rowWrite} {
			all = append(all, Target{row, link, peerTCP, ofSpeed, 0.9})
		}
	}
	return all
}
