package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// keep runs the benchmark in namespaces of its own and removes what is left of it.
func keep(c *config) (code int, err error) {
	if err := private(c.outside); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, removeCgroups(c.cgroup()), os.RemoveAll(c.dir)) }()
	if err := arrange(c.dir); err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)

	runtime.LockOSThread() // Pdeathsig goes by thread: prctl(2)
	cmd := self("init")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // a terminal's ^C is for keeper
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	done := make(chan error, 1)
	// It ends when the last process of its pid namespace has: pid_namespaces(7).
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case s := <-signals:
		_ = cmd.Process.Kill()
		<-done
		return 128 + int(s.(syscall.Signal)), errors.New(s.String())
	}
	var status *exec.ExitError
	if errors.As(err, &status) {
		return max(status.ExitCode(), 1), nil
	}
	return 0, err
}

// self is this program again, in another role.
func self(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// private refuses to work where the machine would see our mounts.
func private(outside string) error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if outside == "" || own == outside {
		return errors.New("not in a mount namespace of its own: start hack/bench/run")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	return nil
}

// arrange makes the mounts of keeper's namespace.
func arrange(dir string) error {
	// containerd refuses a root that others can write to; its children need to walk through.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil {
		return fmt.Errorf("%s: %w", cgroupRoot, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		// This machine boots with cgroup v1.
		if err := unix.Mount("cgroup2", cgroupRoot, "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroup2 on %s: %w", cgroupRoot, err)
		}
	}
	// Sockets of shims, state of runc and crun, and nothing of the machine's containerd.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	return nil
}

// cgroup is the top of all cgroups of a run, and the containerd namespace they are named after.
func (c *config) cgroup() string { return filepath.Base(c.dir) }

// removeCgroups removes cgroups that have no process any more. The kernel may still be burying.
func removeCgroups(name string) error {
	top := filepath.Join(cgroupRoot, name)
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		err = nil
		for i := len(dirs) - 1; i >= 0; i-- { // children come after their parents
			if e := os.Remove(dirs[i]); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = e
			}
		}
		if err == nil {
			return nil
		}
	}
	return err
}

// reap is process 1: it waits for the benchmark and for whatever was orphaned.
func reap() (int, error) {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return 1, fmt.Errorf("mount proc on /proc: %w", err)
	}
	cmd := self("bench")
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, err
		case got == cmd.Process.Pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case got == cmd.Process.Pid:
			return status.ExitStatus(), nil
		}
	}
}
