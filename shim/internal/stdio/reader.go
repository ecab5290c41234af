package stdio

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A FIFO whose reader is gone, or may go: see doc.go, "Reader slow, reader gone".

const (
	// readerGrace is how long a full FIFO without a reader blocks the process: time for containerd
	// to restart in.
	readerGrace = 10 * time.Second
	// readerPoll is how often such a FIFO is looked at; the kernel has no event for the writer
	// when a reader opens.
	readerPoll = 50 * time.Millisecond
	// readWait bounds how long the exit of a process is held back for a reader to read its last
	// words.
	readWait = 200 * time.Millisecond
)

// unread deals with a piece for a FIFO that nobody reads: into the FIFO while it takes it, then
// kept back for the time of grace, then dropped.
func (p *pump) unread() state {
	n, err := p.dst.writeUnread(p.pending)
	if n > 0 {
		p.lost = time.Time{}
		p.pending = p.pending[n:]
		return moved
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		p.fail("write", err)
	}
	if p.lost.IsZero() {
		p.lost = time.Now()
	}
	if time.Since(p.lost) < p.grace && !p.dst.unlinked() {
		return gone
	}
	return p.dropPending()
}

// waitReader waits a little for somebody to open the FIFO.
func (p *pump) waitReader() state {
	if !p.pause(readerPoll) {
		return over
	}
	return moved
}

// awaitReader waits until the reader has read the FIFO empty, so that Drain returns after that:
// containerd's client cancels its reading when it hears of the exit (task.Delete, cio.Cancel), and
// what it has not read then is lost to it. Most of the time this is some 10 us: too short for a
// timer of Go's, which epoll_wait(2) rounds up to a millisecond.
func (p *pump) awaitReader(words *end) {
	deadline := time.Now().Add(readWait)
	for wait := 20 * time.Microsecond; words.queued() > 0; wait = min(2*wait, 20*time.Millisecond) {
		if wait < time.Millisecond {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil)
		} else if !p.pause(wait) || time.Now().After(deadline) {
			return
		}
	}
}

// keep holds a process's last words until somebody has read them, or Close. A reader that comes
// now finds no writer and waits in open(2) (fifo(7)); to be a writer for a moment lets it in, to
// the data and then the end of file.
func (p *pump) keep(words *end) {
	for wait := readerPoll; words.queued() > 0 && !words.unlinked(); wait = min(2*wait, time.Second) {
		if !p.pause(wait) {
			return
		}
		if w, err := words.reopen(unix.O_WRONLY); err == nil {
			_ = unix.Close(w)
		}
	}
}

// hasReader is for the write end of a pipe: POLLERR says that no read end is open (poll(2)).
func (e *end) hasReader() bool {
	fds := []unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLOUT}}
	for {
		_, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err != nil || fds[0].Revents&unix.POLLERR == 0
		}
	}
}

// unlinked says that no other process can open the FIFO any more.
func (e *end) unlinked() bool {
	var st unix.Stat_t
	return unix.Fstat(e.fd, &st) == nil && st.Nlink == 0
}

// writeUnread writes into a FIFO that has no reader, by being its reader for that long.
func (e *end) writeUnread(b []byte) (int, error) {
	r, err := e.reopen(unix.O_RDONLY)
	if err != nil {
		return 0, err
	}
	n, err := e.write(b)
	_ = unix.Close(r)
	return n, err
}

// reopen opens the FIFO for reading or writing. It is found through its descriptor: its name may be
// another's by now.
func (e *end) reopen(mode int) (int, error) {
	return open("/proc/self/fd/"+strconv.Itoa(e.fd), mode|unix.O_NONBLOCK, 0)
}
