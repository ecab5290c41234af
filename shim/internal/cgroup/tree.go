package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Pids are the processes of the cgroup and of those below it, sorted: a
// container may keep all of its processes in cgroups that it made itself
// (containerd issue 13784).
func (g *Group) Pids() ([]int, error) {
	top, err := g.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, g.err("pids", err)
	}
	defer unix.Close(top)
	pids, err := procs(top, nil)
	if err == nil && len(pids) == 0 {
		pids, err = threads(top)
	}
	if err != nil {
		return nil, g.err("pids", err)
	}
	err = walk(top, func(dir int) error {
		pids, err = procs(dir, pids)
		if gone(err) {
			return nil
		}
		return err
	}, nil)
	if err != nil {
		return nil, g.err("pids", err)
	}
	// One that moves while we walk may be seen twice.
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// procs appends the content of cgroup.procs to pids.
func procs(dir int, pids []int) ([]int, error) {
	b, err := readFile(dir, "cgroup.procs")
	if errors.Is(err, unix.EOPNOTSUPP) {
		// A threaded cgroup. Its processes are listed by the threaded
		// domain above it (cgroup-v2.rst, "Threads").
		return pids, nil
	}
	if err != nil {
		return pids, err
	}
	for s := range strings.FieldsSeq(string(b)) {
		// 0 is a process that our pid namespace does not know.
		if pid, err := strconv.Atoi(s); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// threads are the processes that have threads in a threaded cgroup, which has
// no list of them. In other cgroups they are those that procs finds.
func threads(dir int) (pids []int, err error) {
	b, err := readFile(dir, "cgroup.threads")
	if err != nil {
		return nil, err
	}
	for tid := range strings.FieldsSeq(string(b)) {
		status, err := os.ReadFile("/proc/" + tid + "/status")
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(status), "\nTgid:\t")
		tgid, _, _ := strings.Cut(rest, "\n")
		if pid, err := strconv.Atoi(tgid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Delete waits until the cgroup holds no process any more and removes it, all
// cgroups below it, and those parents that Create made and nobody uses. It
// kills nothing. A cgroup that is gone is a success. The handle stays open.
func (g *Group) Delete(ctx context.Context) error {
	top, err := openRoot(g.root)
	if err != nil {
		return fmt.Errorf("cgroup %s: delete: %w", g.path, err)
	}
	defer unix.Close(top)
	// Most often the last process has been reaped: one call, no waiting.
	err = unix.Unlinkat(top, g.path[1:], unix.AT_REMOVEDIR)
	if errors.Is(err, unix.EBUSY) {
		err = g.empty(ctx, top)
	}
	if err != nil && !gone(err) {
		return g.err("delete", err)
	}
	for parent := path.Dir(g.path); parent != "/"; parent = path.Dir(parent) {
		if !removeMarked(top, parent[1:]) {
			break
		}
	}
	return nil
}

func (g *Group) empty(ctx context.Context, top int) error {
	for {
		err := g.await(ctx, func(ev events) bool { return !ev.populated })
		if cause := ctx.Err(); cause != nil && err != nil {
			return fmt.Errorf("%w: %s", cause, g.stuck())
		}
		if err != nil && !gone(err) {
			return err
		}
		parent, err := openDir(top, path.Join(".", path.Dir(g.path)))
		if err != nil {
			return err
		}
		err = removeTree(parent, path.Base(g.path))
		unix.Close(parent)
		// EBUSY once more: somebody has moved a process in since.
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
}

// removeMarked removes an empty cgroup that Create made as a parent.
func removeMarked(top int, name string) bool {
	fd, err := openDir(top, name)
	if err != nil {
		return false
	}
	ours := marked(fd, markParent)
	unix.Close(fd)
	return ours && unix.Unlinkat(top, name, unix.AT_REMOVEDIR) == nil
}

// removeTree removes the cgroup name in parent and all below it.
func removeTree(parent int, name string) error {
	top, err := openDir(parent, name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(top)
	rmdir := func(parent int, name string) error {
		if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && !gone(err) {
			return fmt.Errorf("rmdir %s: %w", name, err)
		}
		return nil
	}
	if err := walk(top, nil, rmdir); err != nil {
		return err
	}
	return rmdir(parent, name)
}

// walk goes through the cgroups below top. It calls enter, if not nil, when it
// comes to one, and leave, if not nil, with the directory above it and its
// name when all below it is done. It holds two descriptors however deep the
// tree is: a container may nest without end, beyond PATH_MAX and RLIMIT_NOFILE.
func walk(top int, enter func(dir int) error, leave func(parent int, name string) error) error {
	todo, err := children(top)
	if err != nil || len(todo) == 0 {
		return err
	}
	at, err := openDir(top, ".")
	if err != nil {
		return err
	}
	w := walker{at: at, stack: []level{{todo: todo}}}
	defer func() { unix.Close(w.at) }()
	for {
		l := &w.stack[len(w.stack)-1]
		switch n := len(l.todo); {
		case n > 0:
			name := l.todo[n-1]
			l.todo = l.todo[:n-1]
			err = w.down(name, enter)
		case len(w.stack) > 1:
			err = w.up(l.name, leave)
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type walker struct {
	at    int // the cgroup that we are in
	stack []level
}

type level struct {
	name string
	todo []string // children not visited yet
}

func (w *walker) down(name string, enter func(dir int) error) error {
	child, err := openDir(w.at, name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	unix.Close(w.at)
	w.at = child
	if enter != nil {
		if err := enter(child); err != nil {
			return err
		}
	}
	todo, err := children(child)
	if err != nil && !gone(err) {
		return err
	}
	w.stack = append(w.stack, level{name, todo})
	return nil
}

func (w *walker) up(name string, leave func(parent int, name string) error) error {
	// cgroup v2 directories are never moved: .. is where we came from.
	parent, err := openFile(w.at, "..", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open ..: %w", err)
	}
	unix.Close(w.at)
	w.at = parent
	w.stack = w.stack[:len(w.stack)-1]
	if leave != nil {
		return leave(parent, name)
	}
	return nil
}

// children are the names of the cgroups in dir.
func children(dir int) ([]string, error) {
	// kernfs counts subdirectories in the links. Most cgroups have none, and
	// reading a directory of 60 files to see that costs more than all else.
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil || st.Nlink == 2 {
		return nil, err
	}
	fd, err := openFile(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "cgroup")
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
