package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPty makes a pair as the agent does inside the container: unlock, then the slave by ioctl.
func openPty(t testing.TB) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	return master, os.NewFile(peer, "slave")
}

// startTTY runs a script on a terminal.
func startTTY(t testing.TB, s *IO, script string) *process {
	t.Helper()
	master, slave := openPty(t)
	cmd := exec.Command("/bin/sh", "-c", script)
	p := &process{Cmd: cmd, done: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	go func() { p.err = cmd.Wait(); close(p.done) }()
	t.Cleanup(p.kill)
	s.Started()
	if err := s.SetConsole(master); err != nil {
		t.Fatal(err)
	}
	if err := s.OpenInput(); err != nil {
		t.Fatal(err)
	}
	return p
}

func newTTYClient(t testing.TB) *client {
	c := &client{t: t, cfg: Config{Stdin: fifoPath(t, "in"), Stdout: fifoPath(t, "out"), Terminal: true}}
	c.in = openAsync(c.cfg.Stdin, os.O_WRONLY)
	c.out = openAsync(c.cfg.Stdout, os.O_RDONLY)
	return c
}

// lines reads a stream line by line.
func nextLine(t testing.TB, f *os.File) string {
	t.Helper()
	_ = f.SetReadDeadline(time.Now().Add(5 * time.Second))
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := f.Read(b); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		if b[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r")
		}
		line = append(line, b[0])
	}
}

func TestTerminal(t *testing.T) {
	c := newTTYClient(t)
	s := mustOpen(t, c.cfg)
	if err := s.Resize(77, 33); err != nil { // before the console is there
		t.Fatal(err)
	}
	cmd := startTTY(t, s, `stty -echo; stty size; read x; stty size; test -t 0 && test -t 2 && echo tty $x; exit 0`)
	out, in := <-c.out, <-c.in
	want(t, "size", nextLine(t, out), "33 77")
	if err := s.Resize(100, 40); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(in, "hello\n")
	want(t, "size", nextLine(t, out), "40 100")
	want(t, "line", nextLine(t, out), "tty hello")
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	rest, err := io.ReadAll(out)
	if err != nil || len(rest) != 0 {
		t.Fatalf("%q %v", rest, err)
	}
	mustClose(t, s)
	_, _ = in.Close(), out.Close()
}

// A client that types into a terminal whose process has just ended is not told so by its write, nor held
// up: it has not read the output yet. Close ends it.
func TestTerminalInputAfterExit(t *testing.T) {
	c := newTTYClient(t)
	s := mustOpen(t, c.cfg)
	cmd := startTTY(t, s, `stty -echo; echo last words`)
	out, in := <-c.out, <-c.in
	waitExit(t, cmd, 5*time.Second)
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(30 * time.Second) }()
	_ = in.SetWriteDeadline(time.Now().Add(30 * time.Second))
	for range 4 { // each more than the FIFO holds
		if _, err := in.Write(make([]byte, 100_000)); err != nil {
			t.Fatalf("before Close: %v", err)
		}
	}
	want(t, "line", nextLine(t, out), "last words")
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	if err := s.Err(); err != nil && !errors.Is(err, unix.EIO) { // typed between the exit and Drain
		t.Error(err)
	}
	mustClose(t, s)
	if _, err := in.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("after Close: %v", err)
	}
	_, _ = in.Close(), out.Close()
}

// CloseStdin types the end of file, and the terminal stays.
func TestTerminalCloseStdin(t *testing.T) {
	for _, input := range []string{"", "a line\n", "half a line"} {
		t.Run(fmt.Sprintf("%q", input), func(t *testing.T) {
			c := newTTYClient(t)
			s := mustOpen(t, c.cfg)
			cmd := startTTY(t, s, `stty -echo; echo ready; cat; echo end`)
			out, in := <-c.out, <-c.in
			want(t, "line", nextLine(t, out), "ready")
			_, _ = io.WriteString(in, input)
			_ = in.Close()
			if err := s.CloseStdin(); err != nil {
				t.Fatal(err)
			}
			waitExit(t, cmd, 5*time.Second)
			mustDrain(t, s)
			rest, err := io.ReadAll(out)
			if err != nil {
				t.Fatal(err)
			}
			want(t, "rest", string(rest), strings.ReplaceAll(input, "\n", "\r\n")+"end\r\n")
			_ = out.Close()
		})
	}
}

// More than a terminal buffers comes through; its last part too.
func TestTerminalMuch(t *testing.T) {
	c := newTTYClient(t)
	s := mustOpen(t, c.cfg)
	cmd := startTTY(t, s, `stty raw -echo; head -c 5000000 /dev/zero; echo end; sleep 0.1`)
	out := collect(c.out)
	waitExit(t, cmd, 20*time.Second)
	mustDrain(t, s)
	got := receive(t, out)
	if len(got) != 5000004 || !strings.HasSuffix(got, "end\n") {
		t.Fatalf("%d bytes", len(got))
	}
	_ = (<-c.in).Close()
}

// A grandchild on the terminal holds nothing up, nor does a terminal without any client.
func TestTerminalGrandchild(t *testing.T) {
	s := mustOpen(t, Config{Terminal: true})
	pid := filepath.Join(t.TempDir(), "pid")
	cmd := startTTY(t, s, `trap '' HUP; sleep 100 & echo $! >`+pid+`; head -c 100000 /dev/zero`)
	waitExit(t, cmd, 5*time.Second)
	begin := time.Now()
	mustDrain(t, s)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("drain took %v", d)
	}
	mustClose(t, s)
	killFrom(t, pid)
}

func TestConsoleRefused(t *testing.T) {
	s := mustOpen(t, Config{})
	master, slave := openPty(t)
	defer slave.Close()
	if err := s.SetConsole(master); err == nil {
		t.Error("accepted")
	}
	if err := s.Resize(1, 1); err != nil {
		t.Error(err)
	}
	s = mustOpen(t, Config{Terminal: true})
	mustClose(t, s)
	master, slave2 := openPty(t)
	defer slave2.Close()
	if err := s.SetConsole(master); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}
