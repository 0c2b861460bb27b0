package fsevents

// local are the file systems, by statfs(2)'s f_type, that nobody changes but
// through this kernel, which tells of it. Whatever is not listed is refused: on
// nfs, cifs, smb3, fuse, 9p, ceph, afs, gfs2, ocfs2, gpfs, lustre or a shared folder
// of a virtual machine others make changes without an event, and files of proc or
// sysfs change by themselves.
var local = map[uint32]bool{
	0xadf5:     true, // adfs
	0xadff:     true, // affs
	0x42465331: true, // befs
	0x1badface: true, // bfs
	0xca451a4e: true, // bcachefs
	0x9123683e: true, // btrfs
	0x28cd3d45: true, // cramfs
	0xf15f:     true, // ecryptfs
	0xe0f5e1e2: true, // erofs
	0x2011bab0: true, // exfat
	0xef53:     true, // ext2, ext3, ext4
	0xf2f52010: true, // f2fs
	0x4244:     true, // hfs
	0x482b:     true, // hfsplus
	0x9660:     true, // iso9660
	0x72b6:     true, // jffs2
	0x3153464a: true, // jfs
	0x137f:     true, // minix
	0x138f:     true,
	0x2468:     true,
	0x2478:     true,
	0x4d5a:     true,
	0x4d44:     true, // vfat, msdos
	0x3434:     true, // nilfs2
	0x5346544e: true, // ntfs
	0x7366746e: true, // ntfs3
	0x794c7630: true, // overlay: its layers are not to be changed beneath it
	0x858458f6: true, // ramfs
	0x52654973: true, // reiserfs
	0x7275:     true, // romfs
	0x73717368: true, // squashfs
	0x01021994: true, // tmpfs
	0x24051905: true, // ubifs
	0x15013346: true, // udf
	0x00011954: true, // ufs
	0x58465342: true, // xfs
	0x2fc12fc1: true, // zfs
}

// fileSystem returns f_type as it is written in statfs(2): the type of the field
// differs between machines.
func fileSystem[T int32 | int64 | uint32](t T) uint32 { return uint32(t) }
