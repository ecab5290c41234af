package cgroup

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Refused says why a process could not be born in the cgroup, where err is what
// the kernel said to that: which cgroup it was, and by which rule of
// cgroup-v2.rst. It may be another one than ours.
func (g *Group) Refused(err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		b, _ := g.read("cgroup.subtree_control", nil)
		if on := strings.Fields(string(b)); len(on) > 0 {
			return g.err("it gives controllers ("+strings.Join(on, ", ")+
				") to the cgroups below it, and so holds no processes itself (no internal processes)", err)
		}
	case errors.Is(err, unix.EOPNOTSUPP):
		if name, kind := g.threaded(); name != "" {
			return fmt.Errorf("cgroup %s: no process fits below %s, which is %q (cgroup.type): %w", g.path, name, kind, err)
		}
	case errors.Is(err, unix.EAGAIN):
		return g.err("full (pids.max, here or above), or the machine is", err)
	}
	return err
}

// threaded finds the cgroup that makes ours one for threads alone: itself, or
// the nearest above.
func (g *Group) threaded() (name, kind string) {
	top, err := openRoot(g.root)
	if err != nil {
		return "", ""
	}
	defer unix.Close(top)
	for name := g.path; name != "/"; name = path.Dir(name) {
		dir, err := openDir(top, name[1:])
		if err != nil {
			return "", ""
		}
		b, err := readFile(dir, "cgroup.type")
		unix.Close(dir)
		// Below a threaded one all are invalid until they are made
		// threaded too.
		if kind := strings.TrimSpace(string(b)); err == nil && kind != "domain" && kind != "domain invalid" {
			return name, kind
		}
	}
	return "", ""
}

// whyNotEnabled says why a cgroup gives its children no controller.
func whyNotEnabled(name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("cgroup %s: %w: it holds processes itself, and so gives no controllers to those below it (no internal processes)", name, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("cgroup %s: %w: it is threaded", name, err)
	}
	return fmt.Errorf("cgroup %s: %w", name, err)
}
