package container

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mountTable are the mounts at dir and below. Others come and go without us.
func mountTable(t *testing.T, dir string) (at []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(strings.Fields(line)[4], dir) {
			at = append(at, line)
		}
	}
	return at
}

// TestSeed: many who find none make one; it holds three mounts; nothing is left
// when it is removed.
func TestSeed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir() + "/run/seed"
	fds := make([]int, 8)
	var all sync.WaitGroup
	for i := range fds {
		all.Go(func() {
			var err error
			if fds[i], err = OpenSeed(dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	var first unix.Stat_t
	for i, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = st
		}
		if st.Ino != first.Ino {
			t.Errorf("namespace %d and %d: two seeds", st.Ino, first.Ino)
		}
	}
	var inside []string
	var err error
	onThread(func() {
		if err = unix.Unshare(unix.CLONE_FS); err == nil {
			err = unix.Setns(fds[0], unix.CLONE_NEWNS)
		}
		if err == nil {
			inside = mountTable(t, "/")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(inside) != 3 {
		t.Errorf("%d mounts, want a root, proc and sysfs:\n%s", len(inside), strings.Join(inside, ""))
	}
	for _, line := range inside {
		if strings.Contains(line, "shared:") || strings.Contains(line, "master:") {
			t.Errorf("not private: %s", line)
		}
	}
	if now := mountTable(t, dir); len(now) != 2 {
		t.Errorf("%d mounts on the host, want 2:\n%s", len(now), strings.Join(now, ""))
	}
	closeAll(fds)
	if err := RemoveSeed(dir); err != nil {
		t.Fatal(err)
	}
	if now := mountTable(t, dir); len(now) != 0 {
		t.Errorf("mounts are left:\n%s", strings.Join(now, ""))
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("its directory is left")
	}
	if err := RemoveSeed(dir); err != nil {
		t.Errorf("again: %v", err)
	}
}

// TestSeedOfYoungNamespace: also where this process is in a mount namespace of its own, which
// may have been made on any CPU.
func TestSeedOfYoungNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	for range 4 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSeed$", "-test.v")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestSeed ") {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}
