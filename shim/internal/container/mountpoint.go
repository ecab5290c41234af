package container

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/compile"
	"github.com/containerd-mini/mini/shim/internal/program"
)

// maxLinks is how many symlinks the kernel follows: path_resolution(7).
const maxLinks = 40

// mountPoints makes the mount points that the agent asks for: those behind
// symlinks that lead nowhere yet. root is the container's, with all that the agent
// has mounted there.
func (m *maker) mountPoints(plan *program.Plan, root int, files []int) func(number int) error {
	return func(number int) error {
		if number >= len(plan.MountPoints) {
			return fmt.Errorf("mount point %d: not of the plan", number)
		}
		want := plan.MountPoints[number]
		file := false
		if want.File >= 0 {
			var st unix.Stat_t
			if err := unix.Fstat(files[want.File], &st); err != nil {
				return fmt.Errorf("create mount point %s: %w", want.Path, err)
			}
			file = st.Mode&unix.S_IFMT != unix.S_IFDIR
		}
		user := -1
		for i, f := range plan.Files {
			if f.Kind == program.FileUserNamespace {
				user = files[i]
			}
		}
		err := lead(root, want.Path, func(g *gap) error { return m.fill(g, want.Path, file && g.last, user) })
		var step *agent.StepError
		if err != nil && !errors.As(err, &step) { // which says it
			err = fmt.Errorf("create mount point %s: %w", want.Path, err)
		}
		return err
	}
}

// lead has what a path leads to made. Each round is for all up to a "..", which
// leads back out of what must be there first.
func lead(root int, path string, fill func(*gap) error) error {
	for range maxLinks {
		g, err := findGap(root, path)
		if err != nil || g == nil {
			return err
		}
		err = fill(g)
		unix.Close(g.dir)
		if err != nil {
			return err
		}
	}
	return unix.ELOOP
}

// gap is where a path ends that is to go on.
type gap struct {
	dir   int      // the last directory that is there
	names []string // within each other, that are not
	last  bool     // they are the end of the path
}

// findGap walks along a path in a root, as a process does whose root that is, and
// returns what is missing, nil for nothing. It looks at one name at a time, from the
// root down, and the kernel follows no symlink: what is swapped meanwhile is found
// or not found, inside the root (CVE-2021-30465, CVE-2024-45310).
func findGap(root int, path string) (*gap, error) {
	way, rest := ".", strings.Split(path, "/") // way has no symlink
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			way = way[:max(strings.LastIndexByte(way, '/'), 1)]
			continue
		}
		next := way + "/" + name
		fd, err := openPlain(root, next, unix.O_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			return newGap(root, way, append([]string{name}, rest...))
		}
		if err != nil {
			return nil, err
		}
		target, isLink, err := readLink(fd)
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
		if !isLink {
			way = next
			continue
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			way = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return nil, nil //nolint:nilnil // nothing is missing
}

func newGap(root int, way string, rest []string) (*gap, error) {
	dir, err := openPlain(root, way, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	g := &gap{dir: dir, last: true}
	for _, name := range rest {
		switch name {
		case "", ".":
		case "..":
			g.last = false
			return g, nil
		default:
			g.names = append(g.names, name)
		}
	}
	return g, nil
}

func openPlain(root int, path string, flags uint64) (int, error) {
	return unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
}

// readLink reads a symlink. Those of proc lead where no path does.
func readLink(fd int) (target string, isLink bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", false, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return "", false, err
	}
	if fs.Type == unix.PROC_SUPER_MAGIC {
		return "", false, unix.ELOOP
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", false, err
	}
	return string(buf[:n]), true, nil
}

// fill has a process make what is missing, so that it belongs to whom it would
// belong to had the container made it.
func (m *maker) fill(g *gap, dest string, file bool, user int) error {
	files := []uintptr{uintptr(g.dir)}
	if user >= 0 {
		files = append(files, uintptr(user))
	}
	return m.run(compile.MakeDirs(dest, g.names, file, user >= 0), files, nil)
}
