package stdio

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain fails the run when a test leaves a descriptor, a goroutine or a child behind.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "logger" {
		syscall.Exit(loggerMain(os.Args[1:])) // os.Exit waits a second under the race detector
	}
	_ = exec.Command("true").Run() // the netpoller and os/exec keep descriptors for good
	inherited = descriptors()
	goroutines := runtime.NumGoroutine()
	code := m.Run()
	if code == 0 {
		code = leaks(inherited, goroutines)
	}
	os.Exit(code)
}

// inherited is what was open before the first test.
var inherited []string

func leaks(before []string, goroutines int) int {
	var after []string
	for range 100 {
		after = descriptors()
		if len(after) <= len(before) && runtime.NumGoroutine() <= goroutines {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	code := 0
	if len(after) > len(before) {
		fmt.Printf("leaked descriptors:\n before %v\n after  %v\n", before, after)
		code = 1
	}
	if runtime.NumGoroutine() > goroutines {
		buf := make([]byte, 1<<20)
		fmt.Printf("leaked goroutines:\n%s\n", buf[:runtime.Stack(buf, true)])
		code = 1
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		fmt.Printf("leaked child: %d %v\n", pid, err)
		code = 1
	}
	return code
}

// descriptors lists what is open, but for what the netpoller and the listing itself use.
func descriptors() []string {
	var open []string
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasSuffix(target, "/fd") {
			open = append(open, e.Name()+"="+target)
		}
	}
	sort.Strings(open)
	return open
}

// client plays containerd's side: it makes the FIFOs, and opens them as cio does, in goroutines
// whose open(2) blocks until the shim has opened its end.
type client struct {
	t   testing.TB
	cfg Config
	in  chan *os.File
	out chan *os.File
	err chan *os.File
}

func fifoPath(t testing.TB, name string) string {
	path := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// openAsync opens a FIFO in a goroutine. The file is blocking or not as Go likes it.
func openAsync(path string, flag int) chan *os.File {
	ch := make(chan *os.File, 1)
	go func() {
		f, err := os.OpenFile(path, flag, 0)
		if err != nil {
			panic(err)
		}
		ch <- f
	}()
	return ch
}

func newClient(t testing.TB) *client {
	c := &client{t: t, cfg: Config{
		Stdin: fifoPath(t, "in"), Stdout: fifoPath(t, "out"), Stderr: fifoPath(t, "err"),
		ID: "id", Namespace: "ns",
	}}
	c.in = openAsync(c.cfg.Stdin, os.O_WRONLY)
	c.out = openAsync(c.cfg.Stdout, os.O_RDONLY)
	c.err = openAsync(c.cfg.Stderr, os.O_RDONLY)
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func mustOpen(t testing.TB, cfg Config) *IO {
	t.Helper()
	s, err := Open(within(t, 5*time.Second), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// process is a child whose end may be waited for by several.
type process struct {
	*exec.Cmd
	done chan struct{}
	err  error
}

// start runs a program on the IO, as the shim would.
func start(t testing.TB, s *IO, argv ...string) *process {
	t.Helper()
	p := launch(t, s, exec.Command(argv[0], argv[1:]...))
	s.Started()
	_ = s.OpenInput()
	return p
}

func launch(t testing.TB, s *IO, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, done: make(chan struct{})}
	child := s.Child()
	p.Stdin, p.Stdout, p.Stderr = child[0], child[1], child[2]
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.Wait()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.done
}

func sh(t testing.TB, s *IO, script string) *process {
	t.Helper()
	return start(t, s, "/bin/sh", "-c", script)
}

// waitExit fails if the process does not end in time, and well.
func waitExit(t testing.TB, p *process, d time.Duration) {
	t.Helper()
	select {
	case <-p.done:
		if p.err != nil {
			t.Fatalf("process: %v", p.err)
		}
	case <-time.After(d):
		p.kill()
		t.Fatalf("the process still runs after %v", d)
	}
}

// killFrom kills a grandchild that wrote its pid to a file.
func killFrom(t testing.TB, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	pid, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
}

func mustDrain(t testing.TB, s *IO) {
	t.Helper()
	if err := s.Drain(5 * time.Second); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t testing.TB, s *IO) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %.200q, want %.200q", what, got, want)
	}
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
