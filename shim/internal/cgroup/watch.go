package cgroup

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch waits for changes of one file of a cgroup. The file is polled by an
// epoll instance of its own, and that one by the Go runtime: it knows nothing
// of EPOLLPRI, but finds an epoll descriptor readable when an event is there
// (epoll(7)).
type watch struct {
	file  int
	epoll *os.File
}

func (g *Group) watch(name string) (*watch, error) {
	file, err := g.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		unix.Close(file)
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLPRI}
	err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, file, &ev)
	if err == nil {
		// os.NewFile hands only non-blocking descriptors to the poller.
		err = unix.SetNonblock(ep, true)
	}
	if err != nil {
		unix.Close(ep)
		unix.Close(file)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return &watch{file: file, epoll: os.NewFile(uintptr(ep), "epoll")}, nil
}

func (w *watch) close() {
	w.epoll.Close()
	unix.Close(w.file)
}

// read returns the content, and arms wait: a change after it is not missed.
func (w *watch) read(buf []byte) ([]byte, error) { return readAll(w.file, buf) }

// wait returns nil when the content has changed since read, or ctx's error.
func (w *watch) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.epoll.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		var ev [1]unix.EpollEvent
		n, err := again(func() (int, error) { return unix.EpollWait(int(fd), ev[:], 0) })
		failed = err
		return n > 0 || err != nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return errors.Join(err, failed)
}
