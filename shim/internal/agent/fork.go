package agent

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A process that forks has joined a pid namespace, into which one can only be born
// (setns(2)); or it has joined a user namespace, which only a process with a single
// thread can, and has its child born in the other namespaces, which then belong to
// that one. It says who its child is, and ends.

// afterFork adopts the child of a process that forks, and returns what that says.
func (p *Process) afterFork() (message, error) {
	m, err := p.receive(true)
	if err == nil && m.child {
		if err := p.adopt(m.fd); err != nil {
			return message{}, err
		}
		return p.receive(true)
	}
	// The child was first with its word, or one of them has failed. Either
	// way the parent is done, or as good as.
	if err := p.parentEnded(); err != nil {
		return message{}, err
	}
	last, lerr := p.receive(false)
	if lerr == nil && last.child {
		if err := errors.Join(err, p.adopt(last.fd)); err != nil {
			return message{}, err
		}
		return m, nil
	}
	if errors.Is(lerr, unix.EAGAIN) {
		lerr = nil
	}
	return message{}, cmp.Or(err, lerr, errors.New("agent ended before its gate"))
}

// parentEnded waits for the end of the parent, and leaves it to be reaped.
func (p *Process) parentEnded() error {
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	err = rc.Read(func(fd uintptr) bool {
		werr = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED|unix.WNOWAIT, nil)
		return werr != unix.EAGAIN && werr != unix.EINTR
	})
	return errors.Join(err, werr)
}

// adopt goes on with the child of a process that forks. With CLONE_PARENT it is
// the shim's child, too.
func (p *Process) adopt(pidfd *os.File) error {
	if pidfd == nil {
		return errors.New("agent: fork: no pidfd")
	}
	pid, err := pidOf(pidfd)
	if err != nil {
		pidfd.Close()
		return fmt.Errorf("agent: fork: %w", err)
	}
	// It has done what it was for, and ends.
	_, err = p.Wait()
	p.Pid, p.pidfd, p.parent = pid, pidfd, 0
	return err
}

// pidOf is the pid that a pidfd stands for: proc_pid_fdinfo(5).
func pidOf(pidfd *os.File) (pid int, err error) {
	rc, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	data := make([]byte, 1<<10) // procfs gives such a file at once
	cerr := rc.Control(func(fd uintptr) {
		var info, n int
		path := fmt.Sprintf("/proc/self/fdinfo/%d", fd)
		if info, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			err = fmt.Errorf("%s: open: %w", path, err)
			return
		}
		defer unix.Close(info)
		if n, err = unix.Read(info, data); err != nil {
			err = fmt.Errorf("%s: read: %w", path, err)
			return
		}
		data = data[:n]
	})
	if err = errors.Join(err, cerr); err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err = strconv.Atoi(strings.TrimSpace(value))
			if err == nil && pid <= 0 {
				err = errors.New("not in this pid namespace")
			}
			return pid, err
		}
	}
	return 0, errors.New("not a pidfd")
}

// abandonFamily does so where parent and child may both be there, and the child
// is not known yet. Until it is reaped the parent holds the number of the group.
func (p *Process) abandonFamily() error {
	if err := unix.Kill(-p.parent, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill: %w", err)
	}
	for {
		err := unix.Waitid(unix.P_PGID, p.parent, nil, unix.WEXITED, nil)
		if err == unix.ECHILD {
			break
		}
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("waitid: %w", err)
		}
	}
	// One that was killed, with its cgroup, before it had made its group.
	_, err := p.Wait()
	if errors.Is(err, unix.ECHILD) {
		return nil
	}
	return err
}
