package agent

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

var gate = []program.Op{
	{Nr: unix.SYS_WRITE, Args: []program.Arg{program.Int(3), program.Str("g"), program.Int(1)}},
	{Nr: unix.SYS_READ, Args: []program.Arg{program.Int(3), program.Bytes(make([]byte, 8), "buf"), program.Int(1)}, EOF: true},
}

func execve(argv ...string) program.Op {
	return program.Op{
		Nr:   unix.SYS_EXECVE,
		Args: []program.Arg{program.Str(argv[0]), program.Strs(argv), program.Strs([]string{"A=b"})},
		Step: "exec " + argv[0],
	}
}

var cloexec = program.Op{
	Nr:   unix.SYS_CLOSE_RANGE,
	Args: []program.Arg{program.Int(3), program.Int(int64(^uint32(0))), program.Int(unix.CLOSE_RANGE_CLOEXEC)},
}

// newAgent is New, but where the tests are for another machine.
var newAgent = New

func start(t *testing.T, ops ...program.Op) (*Process, *os.File, error) {
	t.Helper()
	return startCommand(t, Command{Program: &program.Program{Ops: ops}, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS})
}

func startCommand(t *testing.T, cmd Command) (*Process, *os.File, error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: cgroups and namespaces")
	}
	root := "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		root = "/sys/fs/cgroup"
	}
	dir := filepath.Join(root, "mini-agent-test")
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	cg, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cg.Close()
	a, err := newAgent()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if a.emulator != "" {
		cmd.Program = forARM64(cmd.Program)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd.Stdio = [3]uintptr{null.Fd(), w.Fd(), w.Fd()}
	cmd.Cgroup = int(cg.Fd())
	p, err := a.Start(t.Context(), cmd)
	return p, r, err
}

func TestGateAndExec(t *testing.T) {
	ops := append(append([]program.Op{}, gate...), cloexec, execve("/bin/sh", "-c", "echo hello $A; ls /proc/self/fd | wc -l; exit 7"))
	p, r, err := start(t, ops...)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 100)
	n, _ := r.Read(out)
	ws, err := p.Wait()
	if err != nil || ExitStatus(ws) != 7 {
		t.Fatalf("exit %v, %v", ws, err)
	}
	if !strings.HasPrefix(string(out[:n]), "hello b\n") {
		t.Fatalf("out %q", out[:n])
	}
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal after the end: %v", err)
	}
}

func TestStepFails(t *testing.T) {
	p, _, err := start(t, program.Op{Nr: unix.SYS_FCHDIR, Args: []program.Arg{program.Int(99)}, Step: "enter nowhere"})
	var step *StepError
	if p != nil || !errors.As(err, &step) || err.Error() != "enter nowhere: bad file descriptor" {
		t.Fatalf("%v, %v", p, err)
	}
}

func TestJumpsAndSlots(t *testing.T) {
	const slot = program.Slot(5)
	ops := []program.Op{
		// An answer jumps over the failure.
		{Nr: unix.SYS_FCHDIR, Args: []program.Arg{program.Int(99)}, Answers: []unix.Errno{unix.ENOENT, unix.EBADF}, Else: 1},
		{Nr: program.Let, Args: []program.Arg{program.Int(-int64(unix.EIO))}, Step: "not skipped"},
		// Success jumps too.
		{Nr: program.Let, Args: []program.Arg{program.Int(3)}, Out: slot, Then: 1},
		{Nr: program.Let, Args: []program.Arg{program.Int(-int64(unix.EIO))}, Step: "not skipped"},
		// The slot is the socket.
		{Nr: unix.SYS_WRITE, Args: []program.Arg{program.From(slot), program.Str("g"), program.Int(1)}},
		gate[1],
		execve("/nonexistent"),
	}
	p, _, err := start(t, ops...)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Open(t.Context())
	if err == nil || err.Error() != "exec /nonexistent: no such file or directory" {
		t.Fatalf("open: %v", err)
	}
	if ws, err := p.Wait(); err != nil || ExitStatus(ws) != 1 {
		t.Fatalf("%v %v", ws, err)
	}
}

func TestShimGone(t *testing.T) {
	p, _, err := start(t, append(append([]program.Op{}, gate...), execve("/bin/true"))...)
	if err != nil {
		t.Fatal(err)
	}
	p.sock.Close()
	if ws, err := p.Wait(); err != nil || ExitStatus(ws) != 1 {
		t.Fatalf("%v %v", ws, err)
	}
}

func TestBigImage(t *testing.T) {
	arg := strings.Repeat("x", 100<<10) // MAX_ARG_STRLEN is 128 kB
	argv := []string{"/bin/sh", "-c", "echo $#", "sh"}
	for range 10 {
		argv = append(argv, arg)
	}
	p, r, err := start(t, append(append([]program.Op{}, gate...), cloexec, execve(argv...))...)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 10)
	n, _ := r.Read(out)
	if ws, err := p.Wait(); err != nil || ws != 0 || string(out[:n]) != "10\n" {
		t.Fatalf("%v %v %q", ws, err, out[:n])
	}
}

// TestRetry: renames elsewhere keep openat2(2) from telling where ".." leads; it is
// asked again.
func TestRetry(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, name := range []string{a, b} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
			// A look-up takes some 50 us. Without a pause almost none succeeds, and the agent gives up in the end.
			for start := time.Now(); time.Since(start) < 50*time.Microsecond; {
			}
		}
	}()
	defer func() { close(done); <-ended }()
	how := make([]byte, 24) // struct open_how: O_PATH, 0, RESOLVE_IN_ROOT
	binary.LittleEndian.PutUint64(how, unix.O_PATH)
	binary.LittleEndian.PutUint64(how[16:], unix.RESOLVE_IN_ROOT)
	var ops []program.Op
	for range 1000 {
		ops = append(ops,
			program.Op{
				Nr: unix.SYS_OPENAT2, Step: "look up", Out: 9,
				Args: []program.Arg{program.Int(unix.AT_FDCWD), program.Str(strings.Repeat("../", 1000) + "."), program.Bytes(how, "how"), program.Int(len(how))},
			},
			program.Op{Nr: unix.SYS_CLOSE, Args: []program.Arg{program.From(9)}})
	}
	p, _, err := start(t, append(ops, gate...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Abandon(); err != nil {
		t.Fatal(err)
	}
}
