package bootstrap

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// RecordName is the file in a bundle that says which cgroup its container has:
// written before anything is made, removed when all is gone.
const RecordName = "mini.cgroup"

// killed is how a container ends whose shim was killed: 128 plus SIGKILL.
const killed = 128 + uint32(syscall.SIGKILL)

// bundle is the directory of the container.
func (a *Args) bundle() string {
	if a.Bundle != "" {
		return a.Bundle
	}
	return "."
}

// deleteEarly answers `delete` after an orderly end, which leaves nothing to
// clean up: by far the most. containerd runs it then too.
func deleteEarly(a *Args) (handled bool, err error) {
	_, err = os.Lstat(a.bundle() + "/" + RecordName)
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return true, err
	}
	return true, Deleted(a)
}

// Deleted is the end of every `delete`: the socket of a killed shim goes, and
// containerd is told how the container ended. What is already gone is no
// error.
func Deleted(a *Args) error {
	removeSocket(a)
	now := time.Now()
	_, err := os.Stdout.Write(deleteResponse(killed, now.Unix(), now.Nanosecond()))
	return err
}

// removeSocket removes the socket that a killed shim left, unless somebody
// serves it: other containers of the pod, or a newer shim.
func removeSocket(a *Args) {
	path := a.recordedSocket()
	if path == "" {
		group, err := group(a.bundle(), a.ID)
		if err != nil {
			group = a.ID
		}
		path = SocketPath(defaultSocketDir, a.Address, a.Namespace, group)
	}
	lock, err := syscall.Open(parent(path), syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer syscall.Close(lock)
	if flock(lock) == nil && !served(&syscall.SockaddrUnix{Name: path}) {
		// Best effort: the next start would replace it.
		_ = os.Remove(path)
	}
}

// recordedSocket is the path that was written down with our answer to `start`,
// by containerd or, for containerd 1.7, by ourselves; or "".
func (a *Args) recordedSocket() string {
	var address string
	if data, err := os.ReadFile(a.bundle() + "/bootstrap.json"); err == nil {
		if address, err = text(data, "address"); err != nil {
			return ""
		}
	} else if data, err := os.ReadFile(a.bundle() + "/address"); err == nil {
		address = string(data)
	}
	scheme, path, _ := cut(address, "://")
	if scheme != "unix" {
		return ""
	}
	return path
}
