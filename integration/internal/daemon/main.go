package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The words outer hands to inner.
const (
	envBase = "MINI_TEST_BASE" // directory of this run; set only in inner
	envKeep = "MINI_TEST_KEEP" // if set by the user, the directory stays

	// envShim is a shim to test instead of one built from this tree.
	envShim = "MINI_TEST_SHIM"
	// envFlags are further flags of `go build` for the shim, e.g. -race.
	envFlags = "MINI_TEST_SHIM_FLAGS"
	// envRuntime is the runtime to test: any that is found in the PATH of containerd.
	envRuntime = "MINI_TEST_RUNTIME"

	miniRuntime = "io.containerd.mini.v2"
	shimName    = "containerd-shim-mini-v2"
)

// Main runs the tests of a package. It is the whole of its TestMain and does not return.
func Main(m *testing.M) {
	if os.Getuid() != 0 || !testsWanted() {
		os.Exit(m.Run()) // Start and Shared skip
	}
	if os.Getenv(envBase) != "" {
		os.Exit(inner(m))
	}
	code, err := outer()
	if err != nil {
		fmt.Fprintln(os.Stderr, "daemon:", err)
		code = 1
	}
	os.Exit(code)
}

// testsWanted is false for the runs of a test binary that only ask it something.
func testsWanted() bool {
	for _, arg := range os.Args[1:] {
		if strings.HasPrefix(strings.TrimLeft(arg, "-"), "test.list") {
			return false
		}
	}
	return true
}

func inner(m *testing.M) int {
	if err := arrange(); err != nil {
		fmt.Fprintln(os.Stderr, "daemon:", err)
		return 1
	}
	code := m.Run()
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, "daemon:", err)
		code = max(code, 1)
	}
	return code
}

// arrange makes the private mounts of inner. Its namespace is private already: Go makes / so when it
// is asked for CLONE_NEWNS.
func arrange() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil {
		return fmt.Errorf("%s: %w", cgroupRoot, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		if err := unix.Mount("cgroup2", cgroupRoot, "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroup2 on %s: %w", cgroupRoot, err)
		}
	}
	for _, dir := range runDirs {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0711"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	return nil
}

const cgroupRoot = "/sys/fs/cgroup"

// runDirs are where shims keep sockets, whatever containerd they serve.
var runDirs = []string{"/run/containerd", "/run/mini"}

func outer() (code int, err error) {
	base, err := os.MkdirTemp("", "mini-test-") // short: socket paths end at 108 bytes, unix(7)
	if err != nil {
		return 1, err
	}
	if os.Getenv(envKeep) == "" {
		defer os.RemoveAll(base)
	}
	// containerd refuses a root that others can write to; its children need to walk through.
	if err := os.Chmod(base, 0o711); err != nil {
		return 1, err
	}
	if err := buildShim(base); err != nil {
		return 1, err
	}
	for _, dir := range runDirs {
		giveBack, err := borrow(dir)
		if err != nil {
			return 1, err
		}
		defer giveBack()
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("prctl PR_SET_CHILD_SUBREAPER: %w", err)
	}

	// Pdeathsig goes by thread: this one must live as long as outer.
	runtime.LockOSThread()
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	pid, err := syscall.ForkExec(self, os.Args, &syscall.ProcAttr{
		Env:   append(os.Environ(), envBase+"="+base),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 1, fmt.Errorf("%s: %w", self, err)
	}
	forward(pid)
	code = reapUntil(pid)
	if left := bury(); len(left) > 0 {
		code = max(code, 1)
		err = fmt.Errorf("left behind by the tests, killed now:\n\t%s", strings.Join(left, "\n\t"))
	}
	return code, errors.Join(err, removeCgroups(filepath.Base(base)))
}

// forward passes on what `go test` or a terminal sends to outer alone.
func forward(pid int) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			_ = syscall.Kill(pid, s.(syscall.Signal))
		}
	}()
}

// reapUntil reaps whatever was orphaned, until pid itself ends, and gives its exit status.
func reapUntil(pid int) int {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1
		case got == pid && status.Signaled():
			return 128 + int(status.Signal())
		case got == pid:
			return status.ExitStatus()
		}
	}
}

// bury kills all descendants of this process, and says what they were.
func bury() (left []string) {
	said := make(map[int]bool)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		all := descendants(os.Getpid())
		if len(all) == 0 {
			break
		}
		for _, p := range all {
			if !said[p.pid] && !p.zombie {
				said[p.pid] = true
				left = append(left, p.String())
			}
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		for {
			got, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if got <= 0 || err != nil {
				break
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return left
}

// buildShim builds this tree's shim into base/bin, or puts there what the user named instead.
func buildShim(base string) error {
	bin := filepath.Join(base, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if shim := os.Getenv(envShim); shim != "" {
		data, err := os.ReadFile(shim)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(bin, shimName), data, 0o755)
	}
	if Runtime() != miniRuntime {
		return nil
	}
	args := append([]string{"build", "-o", bin + "/"}, strings.Fields(os.Getenv(envFlags))...)
	cmd := exec.Command("go", append(args, "./cmd/"+shimName)...)
	cmd.Dir = repository()
	if os.Getenv(envFlags) == "" {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// Runtime is the name of the runtime under test.
func Runtime() string {
	if name := os.Getenv(envRuntime); name != "" {
		return name
	}
	return miniRuntime
}

// repository is the root of this tree.
func repository() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}
