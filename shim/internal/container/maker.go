package container

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/compile"
	"github.com/containerd-mini/mini/shim/internal/program"
)

// maker makes, each by a process of a few milliseconds, what is not for the agent
// to make: mount points behind symlinks that lead nowhere (mountpoint.go), and the
// namespaces that have to be finished from outside before a container can be in
// them. A user namespace gets its maps, a time namespace its offsets; a descriptor
// keeps it. A user namespace also is what the ids of a mount are mapped by:
// mount_setattr(2).
type maker struct {
	ctx   context.Context
	agent *agent.Agent
	seed  int            // -1 for none
	users map[string]int // by mapping
}

func (m *maker) close() {
	if m.seed >= 0 {
		unix.Close(m.seed)
	}
	for _, fd := range m.users {
		unix.Close(fd)
	}
}

// user returns a user namespace, which stays the maker's own.
func (m *maker) user(ids *program.IDMaps) (int, error) {
	key := ids.String()
	if fd, ok := m.users[key]; ok {
		return fd, nil
	}
	fd, err := m.make(unix.CLONE_NEWUSER, "user", func(proc string) error {
		if err := writeOnce(proc+"/uid_map", program.MapText(ids.UIDs)); err != nil {
			return fmt.Errorf("uid_map: %w", err)
		}
		if err := writeOnce(proc+"/gid_map", program.MapText(ids.GIDs)); err != nil {
			return fmt.Errorf("gid_map: %w", err)
		}
		return nil
	})
	if err != nil {
		return -1, err
	}
	if m.users == nil {
		m.users = map[string]int{}
	}
	m.users[key] = fd
	return fd, nil
}

// time returns a new time namespace, which is the caller's.
func (m *maker) time(offsets string) (int, error) {
	return m.make(unix.CLONE_NEWTIME, "time_for_children", func(proc string) error {
		if offsets == "" {
			return nil
		}
		return writeOnce(proc+"/timens_offsets", offsets)
	})
}

// make has a process make a namespace, has finish write what belongs to it, and
// opens it under its name in /proc/PID/ns.
func (m *maker) make(flag uintptr, name string, finish func(proc string) error) (int, error) {
	fd := -1
	err := m.run(&compile.MakeNamespace(flag).Program, nil, func(pid int) (err error) {
		// It is our child, and not reaped yet: the pid is its own.
		proc := fmt.Sprintf("/proc/%d", pid)
		if err = finish(proc); err == nil {
			fd, err = openNamespace(proc + "/ns/" + name)
		}
		return err
	})
	if err != nil && fd >= 0 {
		unix.Close(fd)
		fd = -1
	}
	return fd, err
}

// run has a process carry out a Program up to its gate, calls f, and ends it.
func (m *maker) run(p *program.Program, files []uintptr, f func(pid int) error) error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	defer unix.Close(null)
	proc, err := m.agent.Start(m.ctx, agent.Command{
		Program: p, Files: files, Stdio: [3]uintptr{uintptr(null), uintptr(null), uintptr(null)}, Cgroup: -1,
	})
	if err != nil {
		return err
	}
	if f != nil {
		err = f(proc.Pid)
	}
	return errors.Join(err, proc.Abandon())
}

// writeOnce writes all with one write(2): the kernel wants a map in one piece.
func writeOnce(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// idmap maps the ids of a detached mount: MOUNT_ATTR_IDMAP of mount_setattr(2),
// Linux 5.12, and later for some file systems.
func (m *maker) idmap(mount int, ids *program.IDMaps, all bool) error {
	user, err := m.user(ids)
	if err != nil {
		return fmt.Errorf("idmap %s: %w", ids, err)
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if all {
		flags |= unix.AT_RECURSIVE
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(user)}
	err = unix.MountSetattr(mount, "", flags, attr)
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w (a file system that cannot be id-mapped?)", err)
	}
	if err != nil {
		return fmt.Errorf("idmap %s: %w", ids, err)
	}
	return nil
}
