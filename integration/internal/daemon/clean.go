package daemon

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long the orderly end of a shim may take: containerd runs the shim's `delete` after
// the answer to Delete is out.
const patience = 90 * time.Second

// leftovers is what a test could leave behind: kind and name of a thing.
type leftovers []string

// leftovers looks for what is there beyond the daemons; cgroups and bundles only of one namespace.
func (s *server) leftovers(namespace string) leftovers {
	var all leftovers
	known := map[int]bool{os.Getpid(): true}
	for other := range running {
		known[other.Pid()] = true
	}
	for _, p := range descendants(os.Getppid()) {
		if !known[p.pid] {
			all = append(all, "process "+p.String())
		}
	}
	for _, m := range mountpoints() {
		if !isSeed(m) {
			all = append(all, "mount "+m)
		}
	}
	for _, dir := range runDirs {
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && !slices.Contains(mountpoints(), path+" nsfs") && e.Name() != "lock" {
				all = append(all, "file "+path)
			}
			return nil
		})
	}
	if namespace != "" {
		for _, dir := range cgroupsBelow(filepath.Join(cgroupRoot, namespace)) {
			all = append(all, "cgroup "+dir)
		}
		for _, dir := range []string{"root", "state"} {
			bundles, _ := filepath.Glob(filepath.Join(s.Dir, dir, "io.containerd.runtime.v2.task", namespace, "*"))
			for _, b := range bundles {
				// A hidden one containerd has renamed to remove it; if it is killed meanwhile it leaves that for good.
				if !strings.HasPrefix(filepath.Base(b), ".") {
					all = append(all, "bundle "+b)
				}
			}
		}
	}
	return all
}

// isSeed knows what is meant to outlive containers: the mount namespace they take their copy of, and
// the mount that it is mounted in.
func isSeed(mount string) bool {
	path, _, _ := strings.Cut(mount, " ")
	return path == "/run/mini/seed" || path == "/run/mini/seed/mnt"
}

// left is what is there now and was not when the test began.
func (d *Daemon) left() leftovers {
	return slices.DeleteFunc(d.leftovers(d.Namespace), func(thing string) bool {
		return slices.Contains(d.before, thing)
	})
}

// AssertClean fails the test if anything is left of its containers. It runs at the end of each
// test by itself; call it where a test wants to know earlier.
func (d *Daemon) AssertClean() {
	d.t.Helper()
	var left leftovers
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = d.left(); len(left) == 0 {
			return
		}
	}
	d.t.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
}

// finish ends the test's part of the daemon.
func (d *Daemon) finish() {
	if !d.t.Failed() {
		d.AssertClean()
	}
	if d.t.Failed() {
		d.t.Logf("the end of containerd's log:\n%s", d.logTail())
		d.sweep()
	}
	_ = os.Remove(filepath.Join(cgroupRoot, d.Namespace)) // containerd leaves it to whoever removes the namespace
}

// Hide puts an empty directory over each of these for the time of the test: clients and plugins keep state in
// them wherever they are told to.
func (d *Daemon) Hide(dirs ...string) {
	d.t.Helper()
	for _, dir := range dirs {
		giveBack, err := borrow(dir)
		if err != nil {
			d.t.Fatal(err)
		}
		d.t.Cleanup(giveBack)
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			d.t.Fatalf("mount tmpfs on %s: %v", dir, err)
		}
		d.before = append(d.before, "mount "+dir+" tmpfs") // not a container's
		d.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
}

// sweep takes away by force what a failed test has left, so that the next one begins clean.
func (d *Daemon) sweep() {
	for deadline := time.Now().Add(patience / 3); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		left := d.left()
		if len(left) == 0 {
			return
		}
		// Last comes first: a mount may lie on another one.
		for _, thing := range slices.Backward(left) {
			kind, name, _ := strings.Cut(thing, " ")
			switch kind {
			case "process":
				var pid int
				if _, err := fmt.Sscanf(name, "pid %d", &pid); err == nil {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			case "mount":
				_ = unix.Unmount(strings.Fields(name)[0], unix.MNT_DETACH)
			case "cgroup":
				_ = os.WriteFile(filepath.Join(name, "cgroup.freeze"), []byte("0"), 0)
				_ = os.WriteFile(filepath.Join(name, "cgroup.kill"), []byte("1"), 0)
				_ = os.Remove(name)
			case "file":
				_ = os.Remove(name)
			}
		}
	}
	d.t.Logf("could not sweep:\n\t%s", strings.Join(d.left(), "\n\t"))
}
