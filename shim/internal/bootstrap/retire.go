package bootstrap

import (
	"os"
	"syscall"
	"time"
)

// groupOption is the option of the runtime that names a group of containers which
// share a shim, of whatever pods. Such a shim lingers: it may be empty for a moment
// at any time, and ends when it has been idle for a while.
const groupOption = "shim_group"

// sendTo notes, at the socket of a shim that is there, that a container is on its
// way. Under the lock of the directory.
func sendTo(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}

// Retire removes the socket of a shim that is idle, and returns true: nobody will
// be sent to it. Unless a start has sent somebody in the time that has just passed,
// who may not have come yet; or is about to.
func Retire(path string, passed time.Duration) bool {
	lock, err := syscall.Open(parent(path), syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return true // the directory is gone, and the socket with it
	}
	defer syscall.Close(lock)
	if err := syscall.Flock(lock, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return false
	}
	st, err := os.Lstat(path)
	if err != nil {
		return true
	}
	if time.Since(st.ModTime()) < passed {
		return false
	}
	_ = os.Remove(path)
	return true
}
