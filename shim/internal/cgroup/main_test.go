package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests run on the real kernel, in a cgroup2 file system that is mounted
// nowhere: a detached mount that only this process holds, used through
// /proc/self/fd. What /sys/fs/cgroup is on the host does not matter, and is
// not touched. All cgroups are made below one of our own.
var (
	testRoot string
	testTop  = fmt.Sprintf("/mini-cgroup-test-%d", os.Getpid())
	noRoot   string // why testRoot is empty
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	// Baseline with the runtime's poller awake: it keeps descriptors.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	before := openFiles()
	fd, err := mountCgroup2()
	if err != nil {
		noRoot = err.Error()
		return m.Run()
	}
	testRoot = fmt.Sprintf("/proc/self/fd/%d", fd)
	enabled, _ := fieldsOf(fd, "cgroup.subtree_control")
	code := m.Run()

	// Whatever a test left makes this fail.
	err = unix.Unlinkat(fd, testTop[1:], unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		fmt.Fprintf(os.Stderr, "FAIL: cgroups are left: rmdir %s: %v\n", testTop, err)
		code = 1
	}
	// Nor do controllers stay that only the tests wanted.
	now, _ := fieldsOf(fd, "cgroup.subtree_control")
	for _, c := range now {
		if !slices.Contains(enabled, c) {
			_ = writeFile(fd, "cgroup.subtree_control", "-"+c)
		}
	}
	unix.Close(fd)
	if after := openFiles(); len(after) > len(before) {
		fmt.Fprintf(os.Stderr, "FAIL: descriptors leaked:\nbefore %q\nafter  %q\n", before, after)
		code = 1
	}
	return code
}

func mountCgroup2() (int, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen cgroup2: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig create: %w", err)
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

func openFiles() (links []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(link, "/proc/") {
			links = append(links, e.Name()+" "+link)
		}
	}
	return links
}

func needRoot(t testing.TB) {
	t.Helper()
	if testRoot == "" {
		t.Skipf("%s: needs a cgroup2 file system of its own: %s", t.Name(), noRoot)
	}
}

// name is a cgroup path for the test t.
func testPath(t testing.TB, elem ...string) string {
	clean := strings.NewReplacer("/", "_", "#", "_").Replace(t.Name())
	return path.Join(append([]string{testTop, clean}, elem...)...)
}

// newTestGroup makes a cgroup that is removed, with all in it, when t ends.
func newTestGroup(t testing.TB, elem ...string) *Group {
	t.Helper()
	needRoot(t)
	g, err := Create(testRoot, testPath(t, elem...), nil)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, g)
	return g
}

func cleanUp(t testing.TB, g *Group) {
	t.Cleanup(func() {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if err := g.Delete(soon(t)); err != nil {
			t.Error(err)
		}
		if err := g.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
}

// soon is a context for what should happen at once, be it in an emulated guest
// on a busy machine.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// start runs a command that is born in g, and reaps it before the cgroup is
// removed.
func start(t testing.TB, g *Group, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.FD(), Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// inside runs a shell command that is born in g and returns what it printed.
func inside(t testing.TB, g *Group, script string) (string, error) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.FD()}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
