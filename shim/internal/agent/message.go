package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// message is what the agent sends: that it stands at a gate, that it has forked,
// that it misses a mount point, or that it has a listener for its seccomp filter.
// At its end the socket says so.
type message struct {
	end, child, missing bool
	fd                  *os.File
	mountPoint          int // that it misses
	listener            int // its descriptor there, 0 without one
}

// receive returns the next message, or the error that the agent reports. If it is
// not to wait it returns EAGAIN where there is none.
func (p *Process) receive(wait bool) (message, error) {
	var msg [8]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	rc, err := p.sock.SyscallConn()
	if err != nil {
		return message{}, fmt.Errorf("agent: %w", err)
	}
	var rerr error
	err = rc.Read(func(fd uintptr) bool {
		n, oobn, _, _, rerr = unix.Recvmsg(int(fd), msg[:], oob, unix.MSG_CMSG_CLOEXEC)
		return !wait || rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	switch {
	case err != nil:
		return message{}, fmt.Errorf("agent: %w", err)
	case rerr == unix.ECONNRESET, rerr == nil && n == 0:
		return message{end: true}, nil
	case rerr != nil:
		return message{}, fmt.Errorf("agent: recvmsg: %w", rerr)
	case n == 8:
		return message{}, p.stepError(msg)
	case n == program.ListenerSize:
		return message{listener: int(binary.LittleEndian.Uint32(msg[:]))}, nil
	}
	if msg[0] == program.SaysMissing {
		return message{missing: true, mountPoint: int(binary.LittleEndian.Uint16(msg[1:]))}, nil
	}
	m := message{child: msg[0] == program.SaysForked}
	m.fd, err = descriptor(oob[:oobn])
	return m, err
}

func (p *Process) stepError(msg [8]byte) error {
	index := int(uint32(msg[0]) | uint32(msg[1])<<8 | uint32(msg[2])<<16 | uint32(msg[3])<<24)
	errno := uint32(msg[4]) | uint32(msg[5])<<8 | uint32(msg[6])<<16 | uint32(msg[7])<<24
	return &StepError{Step: p.program.Step(index), Errno: unix.Errno(errno)}
}

// descriptor is that of an SCM_RIGHTS message, nil without one: unix(7).
func descriptor(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) == 0 {
		return nil, fmt.Errorf("agent: control message: %w", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) == 0 {
		return nil, fmt.Errorf("agent: control message: %w", err)
	}
	f, err := pollable(fds[0], "received")
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("agent: %w", err)
	}
	return f, nil
}

// arrive waits until the process stands at a gate, and sees to what it needs
// until then.
func (p *Process) arrive() error {
	next := func() (message, error) { return p.receive(true) }
	if p.parent != 0 {
		next = p.afterFork
	}
	m, err := next()
	for err == nil && m.missing {
		if err = p.makeMountPoint(m.mountPoint); err == nil {
			m, err = p.receive(true)
		}
	}
	if err != nil {
		return err
	}
	if m.end {
		ws, _ := p.Wait()
		p.reaped = true
		return fmt.Errorf("agent ended before its gate: %s", describe(ws))
	}
	p.Received = m.fd
	return nil
}

func (p *Process) makeMountPoint(number int) error {
	if p.mountPoint == nil {
		return errors.New("agent: a mount point that nobody makes")
	}
	if err := p.mountPoint(number); err != nil {
		return err
	}
	_, err := p.sock.Write([]byte{1})
	return err
}

// takeListener takes the listener of the process's seccomp filter, gives it away,
// and lets the process go on: pidfd_getfd(2), seccomp_unotify(2).
func (p *Process) takeListener(number int) error {
	if p.listener == nil {
		return errors.New("agent: a seccomp listener that nobody wants")
	}
	var listener *os.File
	err := p.Control(func(pidfd int) error {
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		if err != nil {
			return fmt.Errorf("seccomp listener: pidfd_getfd: %w", err)
		}
		listener = os.NewFile(uintptr(fd), "seccomp")
		return nil
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := p.listener(p.Pid, listener); err != nil {
		return err
	}
	_, err = p.sock.Write([]byte{1})
	return err
}
