package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A filter cannot be taken off again, so the test binary runs itself for it.
func TestMain(m *testing.M) {
	if os.Getenv("MINI_TEST_SECCOMP") != "" {
		if err := underDefaultProfile(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestKernel loads containerd's default profile and makes calls under it.
func TestKernel(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "MINI_TEST_SECCOMP=1")
	out, err := cmd.CombinedOutput()
	if strings.HasPrefix(string(out), "skip: ") {
		t.Skipf("TestKernel: %s", out)
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func underDefaultProfile() error {
	f, err := Compile(defaultProfile())
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	switch err := load(f); {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EACCES):
		return fmt.Errorf("skip: seccomp: %w", err)
	case err != nil:
		return fmt.Errorf("seccomp: %w", err)
	}
	for _, c := range []struct {
		name string
		nr   uintptr
		args [3]uintptr
		want unix.Errno
	}{
		{"getpid", unix.SYS_GETPID, [3]uintptr{}, 0},
		{"close_range(~0, ~0)", unix.SYS_CLOSE_RANGE, [3]uintptr{0xffffffff, 0xffffffff}, 0},
		{"personality(~0)", unix.SYS_PERSONALITY, [3]uintptr{0xffffffff}, 0},
		{"personality(2)", unix.SYS_PERSONALITY, [3]uintptr{2}, unix.EPERM},
		{"socket(AF_VSOCK)", unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EPERM},
		{"socket(99)", unix.SYS_SOCKET, [3]uintptr{99, unix.SOCK_STREAM}, unix.EPERM},
		{"socket(AF_UNIX), no type", unix.SYS_SOCKET, [3]uintptr{unix.AF_UNIX, 99}, unix.EINVAL},
		{"mount", unix.SYS_MOUNT, [3]uintptr{}, unix.EPERM},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [3]uintptr{}, unix.EPERM},
		{"unshare(CLONE_NEWUSER)", unix.SYS_UNSHARE, [3]uintptr{unix.CLONE_NEWUSER}, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, [3]uintptr{}, unix.ENOSYS},
		{"one that is not invented yet", 1000, [3]uintptr{}, unix.ENOSYS},
	} {
		_, _, errno := unix.RawSyscall(c.nr, c.args[0], c.args[1], c.args[2])
		if errno != c.want {
			return fmt.Errorf("%s: errno %d, want %d", c.name, int(errno), int(c.want))
		}
	}
	return underDefaultProfile32()
}

func load(f Filter) error {
	prog := unix.SockFprog{Len: uint16(len(f.Insns)), Filter: unsafe.SliceData(f.Insns)}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		uintptr(f.Flags|unix.SECCOMP_FILTER_FLAG_TSYNC), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(f.Insns)
	if errno != 0 {
		return errno
	}
	return nil
}

// TestTables compares what gen.go made with constants of this architecture, and
// with numbers from elsewhere that no rule of the generator knows.
func TestTables(t *testing.T) {
	native := amd64[0]
	if runtime.GOARCH == "arm64" {
		native = arm64[0]
	}
	for name, want := range map[string]uint32{
		"read": unix.SYS_READ, "execve": unix.SYS_EXECVE, "openat2": unix.SYS_OPENAT2, "mseal": unix.SYS_MSEAL,
		"_sysctl": 0, "nosuchcall": 0,
	} {
		if got, ok := refNumber(native, name); ok && got != want && name != "_sysctl" || name == "nosuchcall" && ok {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	for _, c := range []struct {
		a    abi
		name string
		want uint32
		ok   bool
	}{
		{amd64[1], "read", 0, true}, {amd64[1], "execve", 520, true}, {amd64[1], "uselib", 0, false},
		{amd64[1], "openat2", 437, true}, {amd64[2], "socketcall", 102, true}, {amd64[2], "_llseek", 140, true},
		{amd64[2], "accept", 0, false}, {arm64[1], "set_tls", 0xf0005, true}, {arm64[1], "restart_syscall", 0, true},
		{arm64[1], "arm_fadvise64_64", 270, true}, {arm64[0], "newfstatat", 79, true}, {arm64[0], "open", 0, false},
	} {
		if got, ok := refNumber(c.a, c.name); got != c.want || ok != c.ok {
			t.Errorf("%s of %s is %d, %v, want %d, %v", c.name, c.a.name, got, ok, c.want, c.ok)
		}
	}
	for i := range nNames {
		if i > 0 && nameAt(i-1) >= nameAt(i) {
			t.Errorf("%s before %s", nameAt(i-1), nameAt(i))
		}
		for _, hint := range []int{-1, i - 1, i - 2, i, nNames - 1} {
			if lookup(nameAt(i), max(hint, -1)) != i {
				t.Errorf("%s is not found", nameAt(i))
			}
		}
	}
	for _, m := range multiplexed {
		if by, which := multiplex(m.name); by != m.by || which != m.which || lookup(by, -1) < 0 {
			t.Errorf("%s by %s, %d", m.name, by, which)
		}
	}
}

func BenchmarkLoadDefault(b *testing.B) {
	f, err := Compile(defaultProfile())
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		b.Fatal(err)
	}
	// Each thread that loads one dies with it: nobody else is filtered.
	f.Flags = 0
	for b.Loop() {
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			prog := unix.SockFprog{Len: uint16(len(f.Insns)), Filter: unsafe.SliceData(f.Insns)}
			_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
			if errno != 0 {
				done <- errno
			}
			close(done)
		}()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}
