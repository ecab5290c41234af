package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mark is the extended attribute of directories that Create made, and tells
// the parents that it found missing from the cgroup that it was asked for.
// cgroup v2 takes user attributes since Linux 5.7.
const (
	mark       = "user.mini"
	markParent = "parent"
	markLeaf   = "leaf"
)

// createTries bounds how often Create begins anew because a parent vanished.
const createTries = 16

// Create makes a cgroup and its missing parents, and enables in each ancestor
// the controllers of need that it has and that are not enabled yet. One that
// cannot be enabled is no error until a limit asks for it.
//
// A cgroup that exists is taken over if it holds no processes ([ErrNotEmpty]
// otherwise).
func Create(root, path string, need []string) (*Group, error) {
	g, err := newGroup(root, path)
	if err != nil {
		return nil, err
	}
	// Between our look at a parent and our mkdir in it, another shim that
	// removes the last container of that parent may remove the parent.
	for range createTries {
		if err = g.create(need); !gone(err) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (g *Group) create(need []string) (err error) {
	top, err := openRoot(g.root)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", g.path, err)
	}
	defer unix.Close(top)

	var made []string // paths below top
	defer func() {
		for i := len(made) - 1; err != nil && i >= 0; i-- {
			// It is empty unless someone else has used it meanwhile.
			_ = unix.Unlinkat(top, made[i], unix.AT_REMOVEDIR)
		}
	}()

	at, err := openDir(top, ".")
	if err != nil {
		return g.err("open", err)
	}
	defer func() {
		if at >= 0 {
			unix.Close(at)
		}
	}()

	names := strings.Split(g.path[1:], "/")
	leafIsNew := false
	for i, name := range names {
		here := path.Join(names[:i+1]...)
		if err := g.enable(at, path.Dir("/"+here), need); err != nil {
			return err
		}
		next, fresh, err := makeDir(at, name, i == len(names)-1)
		if fresh {
			made = append(made, here)
		}
		if err != nil {
			return fmt.Errorf("cgroup /%s: %w", here, err)
		}
		unix.Close(at)
		at = next
		leafIsNew = fresh
	}

	g.fd, at = at, -1
	if !leafIsNew {
		return g.startOOM()
	}
	return nil
}

// makeDir makes and opens a cgroup, or opens the one that is there. fresh says
// that there was none; it may be true together with an error.
func makeDir(at int, name string, leaf bool) (fd int, fresh bool, err error) {
	err = unix.Mkdirat(at, name, 0o755)
	if errors.Is(err, unix.EEXIST) && leaf {
		var old int
		if old, err = openDir(at, name); err != nil {
			return -1, false, fmt.Errorf("open: %w", err)
		}
		defer unix.Close(old)
		fresh, err = takeOver(at, name, old)
		if err != nil {
			return -1, fresh, err
		}
	} else if err == nil {
		fresh = true
	} else if !errors.Is(err, unix.EEXIST) {
		return -1, false, fmt.Errorf("mkdir: %w", err)
	}

	fd, err = openDir(at, name)
	if err != nil {
		return -1, fresh, fmt.Errorf("open: %w", err)
	}
	if fresh {
		value := markParent
		if leaf {
			value = markLeaf
		}
		// Where this fails, an empty directory may be left one day.
		_ = unix.Fsetxattr(fd, mark, []byte(value), 0)
	}
	return fd, fresh, nil
}

// takeOver makes a leaf that exists fit for use. One of ours is what a killed
// shim left: it goes, with its limits and its device filter. One that somebody
// prepared stays as it is, but thawed: a process cloned into a frozen cgroup
// would never reach its first instruction.
func takeOver(at int, name string, old int) (fresh bool, err error) {
	ev, err := readEvents(old)
	if err != nil {
		return false, err
	}
	if ev.populated {
		return false, ErrNotEmpty
	}
	if !marked(old, markLeaf) {
		if ev.frozen {
			err = writeFile(old, "cgroup.freeze", "0")
		}
		return false, err
	}
	if err := removeTree(at, name); err != nil {
		return false, err
	}
	if err := unix.Mkdirat(at, name, 0o755); err != nil {
		return false, fmt.Errorf("mkdir: %w", err)
	}
	return true, nil
}

func marked(fd int, value string) bool {
	var b [16]byte
	n, err := unix.Fgetxattr(fd, mark, b[:])
	return err == nil && string(b[:n]) == value
}

// enable turns on the controllers of need in the cgroup at, as far as it has
// them, for its children.
func (g *Group) enable(at int, name string, need []string) error {
	if len(need) == 0 {
		return nil
	}
	on, err := fieldsOf(at, "cgroup.subtree_control")
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", name, err)
	}
	off := slices.DeleteFunc(slices.Clone(need), func(c string) bool {
		return c == "" || slices.Contains(on, c)
	})
	if len(off) == 0 {
		return nil
	}
	has, err := fieldsOf(at, "cgroup.controllers")
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", name, err)
	}
	off = slices.DeleteFunc(off, func(c string) bool { return !slices.Contains(has, c) })
	if len(off) == 0 {
		return nil
	}
	if writeFile(at, "cgroup.subtree_control", "+"+strings.Join(off, " +")) == nil {
		return nil
	}
	// The kernel takes all or none. One by one tells which it refuses:
	// EBUSY where the ancestor holds processes itself (cgroup-v2.rst, "No
	// Internal Process Constraint"), EINVAL for cpu while a realtime process
	// is outside the root and the kernel has RT_GROUP_SCHED (ibid., "CPU").
	for _, c := range off {
		err := writeFile(at, "cgroup.subtree_control", "+"+c)
		if gone(err) {
			return fmt.Errorf("cgroup %s: %w", name, err)
		}
		if err != nil {
			if g.refused == nil {
				g.refused = map[string]error{}
			}
			g.refused[c] = whyNotEnabled(name, err)
		}
	}
	return nil
}

func fieldsOf(dir int, name string) ([]string, error) {
	b, err := readFile(dir, name)
	return strings.Fields(string(b)), err
}

func readFile(dir int, name string) ([]byte, error) {
	fd, err := openFile(dir, name, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer unix.Close(fd)
	b, err := readAll(fd, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

func writeFile(dir int, name, value string) error {
	fd, err := openFile(dir, name, unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := writeAll(fd, value); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
