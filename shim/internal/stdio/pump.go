package stdio

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bufSize = 32 << 10
	// spliceMax is more than a pipe holds unless somebody enlarged it.
	spliceMax = 1 << 20
	// widePipe is what the pipes of a stream in bulk are enlarged to, from 64 KiB. With more there is
	// no gain, and a slow reader would hold up more memory.
	widePipe = 256 << 10
	// spliceMin: a splice that moves less wastes pipe slots, see doc.go, and copying, being slower,
	// finds more at a time: with 4 KiB writes 20% less CPU than splicing page by page.
	spliceMin = 16 << 10
	// ttyLeft bounds what is read from a terminal whose process has ended. A tty buffers 64 KiB
	// (drivers/tty/tty_buffer.c, TTYB_DEFAULT_MEM_LIMIT) and FIONREAD sees a line's worth of it.
	ttyLeft = 128 << 10
)

type buffer [bufSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// state is how one step of a copy ended.
type state uint8

const (
	moved state = iota // something went on its way, try again
	empty              // the source has nothing now
	full               // the destination takes nothing now
	gone               // the destination is a full FIFO that nobody has open for reading
	over               // end of the copy
)

// What a pump is told from outside; only ever raised.
const (
	stopDrained int32 = iota + 1 // copy what is there now, and end; of input: read on, and drop it
	stopNow
)

// pump copies one stream. The fields down to the line do not change once it runs, those below it
// belong to its goroutine, and the last ones to all.
type pump struct {
	name     string
	input    bool // it is the process that reads
	src, dst *end // without a dst all is dropped
	grace    time.Duration
	onRead   func(uintptr) bool
	onWrite  func(uintptr) bool

	// ----

	buf     *buffer
	pending []byte // the part of buf that is not written yet
	wide    bool   // its pipes are
	bulk    bool   // the last read filled the buffer: splice
	last    byte   // the last byte written, for typing the end of a terminal's input
	eof     bool   // the source has ended
	deaf    bool   // the destination is broken for good: drop all
	drain   bool   // copy no more than left
	left    int
	lost    time.Time // since when the FIFO is full and without a reader; zero: it is not
	st      state     // what onRead and onWrite got from move
	srcOpen bool      // finish left it for free

	// ----
	dropped atomic.Int64 // bytes
	stop    atomic.Int32
	quit    chan struct{} // closed with stopNow
	copied  chan struct{} // closed when all has been copied and the reader has its end of file
	once    sync.Once
	done    chan struct{} // closed at the end

	mu  sync.Mutex
	err error // the first failure
}

func newPump(name string, grace time.Duration) *pump {
	p := &pump{name: name, input: name == "stdin", grace: grace,
		quit: make(chan struct{}), copied: make(chan struct{}), done: make(chan struct{})}
	// One closure each for the life of the pump, not one for each wait. RawConn calls them before
	// it waits and after each wakeup, until they return true.
	p.onRead = func(uintptr) bool { p.st = p.move(); return p.st != empty }
	p.onWrite = func(uintptr) bool { p.st = p.move(); return p.st != full }
	return p
}

// run is the pump's goroutine.
func (p *pump) run() {
	defer close(p.done)
	p.copy()
	words, watched := p.finish()
	if watched {
		p.awaitReader(words)
	}
	close(p.copied)
	if words != nil {
		p.keep(words)
		_ = unix.Close(words.fd)
	}
}

func (p *pump) copy() {
	for st := moved; st != over; {
		switch st {
		case moved:
			if st = p.heed(); st != over {
				st = p.move()
			}
		case empty:
			st = p.wait()
		case full:
			st = p.waitWrite()
		case gone:
			st = p.waitReader()
		case over:
		}
	}
}

// halt tells the pump to stop, in the manner how. It wakes it from a wait for its source, and with
// stopNow from any wait.
func (p *pump) halt(how int32) {
	for old := p.stop.Load(); old < how && !p.stop.CompareAndSwap(old, how); old = p.stop.Load() {
	}
	if p.src != nil {
		_ = p.src.file.SetReadDeadline(past)
	}
	if how != stopNow {
		return
	}
	p.once.Do(func() { close(p.quit) })
	if p.dst != nil {
		_ = p.dst.file.SetWriteDeadline(past)
	}
}

// heed does what halt asked for.
func (p *pump) heed() state {
	switch p.stop.Load() {
	case stopNow:
		return over
	case stopDrained:
		if p.input {
			p.deaf, p.bulk = true, false
		} else if !p.drain {
			p.drain = true
			if p.left = ttyLeft; p.src.kind == pipeEnd {
				p.left = p.src.queued()
			}
		}
	}
	return moved
}

// wait waits for the source.
func (p *pump) wait() state {
	if p.drain {
		return over
	}
	if err := p.src.raw.Read(p.onRead); err != nil {
		if p.stop.Load() == 0 {
			p.fail("read", err)
			return over
		}
		if p.input { // it is to wait again; the next halt is seen by heed, or comes after this
			_ = p.src.file.SetReadDeadline(time.Time{})
		}
		return moved // woken by halt
	}
	return p.st
}

// waitWrite waits for the destination.
func (p *pump) waitWrite() state {
	if p.bulk {
		nap()
	}
	if err := p.dst.raw.Write(p.onWrite); err != nil {
		if p.stop.Load() != stopNow {
			p.fail("write", err)
		}
		return over
	}
	return p.st
}

// nap lets a reader of much read on: it empties one page after the other, and the kernel would wake us for the
// first. Too short for a timer of Go's, see awaitReader.
func nap() {
	ts := unix.NsecToTimespec(int64(20 * time.Microsecond))
	_ = unix.Nanosleep(&ts, nil)
}

// pause is a sleep that stopNow ends, with false.
func (p *pump) pause(d time.Duration) bool {
	select {
	case <-p.quit:
		return false
	case <-time.After(d):
		return true
	}
}

// move does one step, without waiting.
func (p *pump) move() state {
	switch {
	case len(p.pending) > 0:
		return p.flush()
	case p.eof:
		return over
	case p.drain && p.left <= 0:
		return over
	case p.bulk:
		return p.splice()
	}
	return p.fill()
}

// fill reads, and writes what it read.
func (p *pump) fill() state {
	if p.buf == nil {
		p.buf = buffers.Get().(*buffer)
	}
	b := p.buf[:]
	if p.drain {
		b = b[:min(len(b), p.left)]
	}
	n, err := p.src.read(b)
	switch {
	case n > 0:
		p.left -= n
		p.pending = b[:n]
		if p.bulk = n == bufSize && p.canSplice(); p.bulk && !p.wide {
			p.widen()
		}
		return p.flush()
	case errors.Is(err, unix.EAGAIN):
		p.freeBuffer()
		return empty
	case err != nil && !errors.Is(err, unix.EIO): // EIO: no process has the terminal open, pty(7)
		p.fail("read", err)
	}
	p.eof = true
	if p.dst != nil && p.dst.kind == ttyEnd {
		p.pending = typedEOF(p.dst, p.last, b)
	}
	return moved
}

// widen lets more go between two wakeups: F_SETPIPE_SZ(2const). It is refused where the user has many
// such pipes already and no CAP_SYS_RESOURCE, and then changes nothing.
func (p *pump) widen() {
	p.wide = true
	for _, fd := range []int{p.src.fd, p.dst.fd} {
		if n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err == nil && n < widePipe {
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, widePipe)
		}
	}
}

func (p *pump) canSplice() bool {
	return p.src.kind == pipeEnd && p.dst != nil && p.dst.kind == pipeEnd && !p.deaf && p.lost.IsZero()
}

// flush writes what is pending.
func (p *pump) flush() state {
	if p.dst == nil || p.deaf {
		return p.dropPending()
	}
	if !p.lost.IsZero() {
		if !p.dst.hasReader() {
			return p.unread() // without the SIGPIPE of trying
		}
		p.lost = time.Time{}
	}
	n, err := p.dst.write(p.pending)
	switch {
	case n > 0:
		p.last = p.pending[n-1]
		p.pending = p.pending[n:]
		return moved
	case errors.Is(err, unix.EAGAIN):
		return full
	case errors.Is(err, unix.EPIPE):
		return p.broken()
	}
	p.fail("write", err)
	return p.dropPending() // a file: the next piece may find room again
}

// splice moves pages from pipe to pipe.
func (p *pump) splice() state {
	size := spliceMax
	if p.drain {
		size = p.left
	}
	n, err := unix.Splice(p.src.fd, nil, p.dst.fd, nil, size, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	switch {
	case n > 0:
		p.left -= int(n)
		p.bulk = n >= spliceMin
		p.freeBuffer()
		return moved
	case err == nil:
		p.eof = true
		return over
	case errors.Is(err, unix.EAGAIN): // either side; a wrong guess is corrected by the try in the wait
		p.freeBuffer()
		if p.src.queued() == 0 {
			// Empty, or at its end: with a full destination
			// splice(2) answers EAGAIN for both. A read tells.
			p.bulk = false
			return moved
		}
		return full
	}
	// EINTR, EPIPE, EINVAL: nothing has moved; the slow way knows what to do.
	p.bulk = false
	return moved
}

// broken handles a pipe without a reader.
func (p *pump) broken() state {
	switch {
	case p.input: // the process has closed it; the client learns it from the FIFO's end
		return over
	case p.dst.named:
		return p.unread()
	}
	p.fail("write", unix.EPIPE) // a log binary; it does not come back
	p.deaf = true
	return p.dropPending()
}

func (p *pump) dropPending() state {
	p.dropped.Add(int64(len(p.pending)))
	p.pending = nil
	return moved
}

// finish closes what the pump has, but for a source that a grandchild may still write to, which is
// for free. If the reader of a FIFO has not read all yet, the result is a read end of our own: the
// reader has its end of file in any case, and if it dies now the data does not die with it.
// watched says that there is a reader.
func (p *pump) finish() (words *end, watched bool) {
	p.pending = nil
	p.freeBuffer()
	now := p.stop.Load() == stopNow
	if p.dst != nil {
		if !now && p.dst.named && p.dst.queued() > 0 {
			watched = p.dst.hasReader()
			if fd, err := p.dst.reopen(unix.O_RDONLY); err == nil {
				words = &end{fd: fd}
			}
		}
		p.dst.release()
	}
	if p.src != nil {
		p.srcOpen = !now && !p.eof && !p.input
		if !p.srcOpen {
			p.src.release()
		}
	}
	return words, watched && words != nil
}

// free closes what finish left. Precondition: the pump is done.
func (p *pump) free() {
	if p.srcOpen {
		p.src.release()
		p.srcOpen = false
	}
}

func (p *pump) freeBuffer() {
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf = nil
	}
}

// fail remembers the first failure.
func (p *pump) fail(op string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = fmt.Errorf("%s: %s: %w", p.name, op, err)
	}
}

// failure is the first failure and what it cost.
func (p *pump) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.dropped.Load()
	switch {
	case n == 0 || p.dst == nil || p.input:
		return p.err
	case p.err == nil:
		return fmt.Errorf("%s: no reader, %d bytes dropped", p.name, n)
	}
	return fmt.Errorf("%w, %d bytes dropped", p.err, n)
}
