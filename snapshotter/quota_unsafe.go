package snapshotter

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the kernel's headers say of project quotas, and golang.org/x/sys does not yet.
const (
	fsGetXattr      = 0x801c581f // FS_IOC_FSGETXATTR, linux/fs.h
	fsSetXattr      = 0x401c5820 // FS_IOC_FSSETXATTR
	projectInherit  = 0x200      // FS_XFLAG_PROJINHERIT
	projectQuota    = 2          // PRJQUOTA, linux/quota.h
	getQuota        = 0x800007   // Q_GETQUOTA
	setQuota        = 0x800008   // Q_SETQUOTA
	getQuotaState   = 0x5808     // Q_XGETQSTATV, linux/dqblk_xfs.h
	projectEnforced = 1 << 5     // FS_QUOTA_PDQ_ENFD
	blockLimits     = 1          // QIF_BLIMITS
	quotaBlock      = 1024       // QIF_DQBLKSIZE
)

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

// dqblk is struct if_dqblk of linux/quota.h. Limits are in units of quotaBlock, space in bytes.
type dqblk struct {
	hard, soft, space, inodesHard, inodesSoft, inodes, blockTime, inodeTime uint64
	valid                                                                   uint32
	_                                                                       uint32
}

// quotaState is struct fs_quota_statv of linux/dqblk_xfs.h.
type quotaState struct {
	version int8
	_       uint8
	flags   uint16
	_       [156]byte
}

// setProject puts a directory into a project, with all that is made in it later.
func setProject(path string, project uint32) error {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	raw, err := dir.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var attr fsxattr
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, fsGetXattr, uintptr(unsafe.Pointer(&attr))); errno != 0 {
			failed = os.NewSyscallError("FS_IOC_FSGETXATTR", errno)
			return
		}
		attr.projid = project
		attr.xflags |= projectInherit
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, fsSetXattr, uintptr(unsafe.Pointer(&attr))); errno != 0 {
			failed = os.NewSyscallError("FS_IOC_FSSETXATTR", errno)
		}
	})
	return errors.Join(err, failed)
}

// projectLimit sets the limit of a project, in bytes; 0 is none, and forgets the project when it is empty.
func projectLimit(fd int, project uint32, limit int64) error {
	block := dqblk{hard: uint64(limit+quotaBlock-1) / quotaBlock, valid: blockLimits}
	return quotactl(fd, setQuota, project, unsafe.Pointer(&block))
}

// projectUsage is what a project takes.
func projectUsage(fd int, project uint32) (bytes, inodes int64, err error) {
	block, err := projectRecord(fd, project)
	return int64(block.space), int64(block.inodes), err
}

// projectRecord is all that the kernel knows of a project.
func projectRecord(fd int, project uint32) (block dqblk, err error) {
	err = quotactl(fd, getQuota, project, unsafe.Pointer(&block))
	return block, err
}

// limitsProjects tells whether the file system holds projects to their limits.
func limitsProjects(fd int) bool {
	state := quotaState{version: 1} // FS_QSTATV_VERSION1
	return quotactl(fd, getQuotaState, 0, unsafe.Pointer(&state)) == nil && state.flags&projectEnforced != 0
}

// quotactl is quotactl_fd(2), Linux 5.14: no path of a device is needed.
func quotactl(fd int, cmd, id uint32, address unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), uintptr(cmd<<8|projectQuota), uintptr(id), uintptr(address), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("quotactl", errno)
	}
	return nil
}
