package stdio

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// collect reads a stream to its end.
func collect(ch chan *os.File) chan string {
	out := make(chan string, 1)
	go func() {
		f := <-ch
		b, err := io.ReadAll(f)
		if err != nil {
			b = append(b, err.Error()...)
		}
		_ = f.Close()
		out <- string(b)
	}()
	return out
}

func receive(t testing.TB, ch chan string) string {
	t.Helper()
	select {
	case s := <-ch:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("no end of file")
		return ""
	}
}

func TestEcho(t *testing.T) {
	c := newClient(t)
	s := mustOpen(t, c.cfg)
	cmd := sh(t, s, `read a; echo "out $a"; echo "err $a" >&2; cat`)
	out, errs := collect(c.out), collect(c.err)
	in := <-c.in
	_, _ = io.WriteString(in, "x\nrest")
	_ = in.Close()
	if err := s.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	want(t, "stdout", receive(t, out), "out x\nrest")
	want(t, "stderr", receive(t, errs), "err x\n")
	mustClose(t, s)
	mustClose(t, s)
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return strings.ToLower(hex(h[:]))
}

func hex(b []byte) string {
	const digits = "0123456789abcdef"
	var s []byte
	for _, c := range b {
		s = append(s, digits[c>>4], digits[c&15])
	}
	return string(s)
}

func TestMuch(t *testing.T) {
	c := newClient(t)
	s := mustOpen(t, c.cfg)
	file := filepath.Join(t.TempDir(), "data")
	data := randomBytes(100 << 20)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	// Odd sizes make partial pages; the sleep lets the pump go from splicing to copying and back.
	cmd := sh(t, s, `head -c 50000001 `+file+`; sleep 0.1; tail -c +50000002 `+file+` | dd bs=7777 2>/dev/null`)
	h := sha256.New()
	f := <-c.out
	_ = collect(c.err)
	n, err := io.Copy(h, readerOf(t, s, cmd, f))
	if err != nil || n != int64(len(data)) {
		t.Fatalf("%d bytes: %v", n, err)
	}
	want(t, "sum", hex(h.Sum(nil)), sum(data))
	_ = f.Close()
	_ = (<-c.in).Close()
}

// readerOf is f, with a goroutine that drains the IO when the process has ended.
func readerOf(t testing.TB, s *IO, cmd *process, f *os.File) io.Reader {
	go func() {
		<-cmd.done
		if err := s.Drain(10 * time.Second); err != nil {
			t.Error(err)
		}
	}()
	return f
}

// One pipe for both streams keeps their order.
func TestSameFIFO(t *testing.T) {
	path := fifoPath(t, "both")
	out := collect(openAsync(path, os.O_RDONLY))
	s := mustOpen(t, Config{Stdout: path, Stderr: path})
	cmd := sh(t, s, `for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done`)
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	want(t, "both", receive(t, out), "o1\ne1\no2\ne2\no3\ne3\no4\ne4\no5\ne5\n")
}

func TestNull(t *testing.T) {
	s := mustOpen(t, Config{})
	cmd := sh(t, s, `cat; for i in 0 1 2; do readlink /proc/self/fd/$i >>`+t.TempDir()+`/x; done; echo hi; echo ho >&2`)
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	mustClose(t, s)
}

// The process's ends block, and nothing but 0, 1 and 2 reaches it.
func TestChildEnds(t *testing.T) {
	c := newClient(t)
	c.cfg.UID, c.cfg.GID = 1234, 1235
	s := mustOpen(t, c.cfg)
	for i, f := range s.Child() {
		raw, _ := f.SyscallConn()
		_ = raw.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("%d: flags %o %v", i, flags, err)
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(fd), &st); err != nil || st.Uid != 1234 || st.Gid != 1235 {
				t.Errorf("%d: owner %d:%d %v", i, st.Uid, st.Gid, err)
			}
		})
	}
	ours := map[string]bool{}
	for _, d := range descriptors() {
		_, target, _ := strings.Cut(d, "=")
		ours[target] = true
	}
	for _, d := range inherited {
		_, target, _ := strings.Cut(d, "=")
		delete(ours, target)
	}
	cmd := sh(t, s, `echo hi >/dev/stdout; grep flags: /proc/self/fdinfo/1; read x`)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", cmd.Process.Pid, e.Name()))
		if ours[target] && e.Name() > "2" {
			t.Errorf("the process has %s=%s", e.Name(), target)
		}
	}
	in := <-c.in
	_, _ = io.WriteString(in, "\n")
	_ = in.Close()
	out := collect(c.out)
	_ = collect(c.err)
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	want(t, "fds", receive(t, out), "hi\nflags:\t01\n")
}

// All that the IO opens is close-on-exec.
func TestCloseOnExec(t *testing.T) {
	before := map[string]bool{}
	for _, d := range descriptors() {
		before[d] = true
	}
	c := newClient(t)
	s := mustOpen(t, c.cfg)
	_, _ = collect(c.out), collect(c.err)
	if err := s.OpenInput(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range descriptors() {
		if before[d] {
			continue
		}
		n++
		fd, _, _ := strings.Cut(d, "=")
		info, _ := os.ReadFile("/proc/self/fdinfo/" + fd)
		if !bytes.Contains(info, []byte("flags:\t02")) && !bytes.Contains(info, []byte("flags:\t012")) {
			t.Errorf("%s: %s", d, info)
		}
	}
	if n < 10 {
		t.Errorf("saw only %d descriptors", n)
	}
	mustClose(t, s)
	_ = (<-c.in).Close()
}

// late is the input of a client that may have come only after Close.
func late(t testing.TB, c *client) *os.File {
	t.Helper()
	f, err := os.OpenFile(c.cfg.Stdin, os.O_RDWR, 0) // of a FIFO, this does not wait: fifo(7)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return <-c.in
}

// Open waits for a reader, and not longer than its context.
func TestOpenWaits(t *testing.T) {
	cfg := Config{Stdout: fifoPath(t, "out")}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, cfg)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "stdout: open "+cfg.Stdout+": no reader: ") {
		t.Fatalf("got %v", err)
	}
	if d := time.Since(begin); d < 100*time.Millisecond || d > time.Second {
		t.Fatalf("took %v", d)
	}
	late := make(chan *os.File, 1)
	time.AfterFunc(100*time.Millisecond, func() { late <- <-openAsync(cfg.Stdout, os.O_RDONLY) })
	out := collect(late)
	s := mustOpen(t, cfg)
	cmd := sh(t, s, `echo hi`)
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	want(t, "stdout", receive(t, out), "hi\n")
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Stdout: "x://y"}, `stdout: unknown scheme "x"`},
		{Config{Stderr: "ttrpc+unix:///a?stream_id=1"}, `stderr: unknown scheme "ttrpc+unix"`},
		{Config{Stdin: "file:///x"}, `stdin: unknown scheme "file"`},
		{Config{Stdin: dir + "/no"}, "stdin: open " + dir + "/no: no such file or directory"},
		{Config{Stdout: dir + "/no"}, "stdout: open " + dir + "/no: no such file or directory"},
		{Config{Stdout: dir}, "stdout: open " + dir + ": is a directory"},
		{Config{Stdout: "fifo://" + dir + "/no"}, "stdout: open " + dir + "/no: no such file or directory"},
		{Config{Stdout: "binary://" + dir + "/no"}, "stdout: log binary " + dir + "/no: start: no such file or directory"},
		{Config{Stderr: "binary-v2://" + dir}, "stderr: log binary " + dir + ": start: permission denied"},
	} {
		_, err := Open(within(t, time.Second), c.cfg)
		if err == nil || err.Error() != c.want {
			t.Errorf("%+v:\n got  %v\n want %s", c.cfg, err, c.want)
		}
	}
}

// An idle IO costs no thread.
func TestThreads(t *testing.T) {
	threads := func() int {
		e, _ := os.ReadDir("/proc/self/task")
		return len(e)
	}
	var all []*IO
	var files []*os.File
	before := threads()
	goroutines := runtime.NumGoroutine()
	for range 100 {
		cfg := Config{Stdin: fifoPath(t, "in"), Stdout: fifoPath(t, "out"), Stderr: fifoPath(t, "err")}
		for _, p := range []string{cfg.Stdout, cfg.Stderr} {
			f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		s := mustOpen(t, cfg)
		for i, f := range s.Child() { // keep the process's ends open, as a process would
			raw, _ := f.SyscallConn()
			_ = raw.Control(func(fd uintptr) {
				dup, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
				if err != nil {
					t.Error(i, err)
				}
				files = append(files, os.NewFile(uintptr(dup), ""))
			})
		}
		s.Started()
		_ = s.OpenInput()
		all = append(all, s)
	}
	time.Sleep(100 * time.Millisecond)
	if n := threads(); n > before+4 {
		t.Errorf("%d threads, %d before", n, before)
	}
	if n := runtime.NumGoroutine() - goroutines; n > 300 {
		t.Errorf("%d goroutines for 100 idle processes", n)
	}
	for _, s := range all {
		mustClose(t, s)
	}
	for _, f := range files {
		_ = f.Close()
	}
}

// Opened 200 times in all ways, nothing stays behind.
func TestLeaks(t *testing.T) {
	count := func() int { return len(descriptors()) }
	before := count()
	for i := range 200 {
		c := newClient(t)
		c.cfg.Terminal = i%4 == 3
		if c.cfg.Terminal {
			go func() { f, _ := os.OpenFile(c.cfg.Stderr, os.O_WRONLY, 0); _ = f.Close() }()
		}
		s := mustOpen(t, c.cfg)
		out, errs := collect(c.out), collect(c.err)
		var cat *process
		switch i % 4 {
		case 0: // never started
		case 1:
			waitExit(t, start(t, s, "true"), 5*time.Second)
			mustDrain(t, s)
		case 2: // closed while copying
			cat = start(t, s, "cat")
		}
		mustClose(t, s)
		if cat != nil {
			cat.kill()
		}
		_ = late(t, c).Close()
		_, _ = receive(t, out), receive(t, errs)
	}
	if n := count(); n != before {
		t.Errorf("%d descriptors, %d before: %v", n, before, descriptors())
	}
}

// TestEndWhileFull: the client ends while the process has not read all that
// there is. splice(2) tells the end of its source only when its destination has
// room.
func TestEndWhileFull(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for range 20 {
		in := filepath.Join(t.TempDir(), "in")
		if err := unix.Mkfifo(in, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), Config{Stdin: in})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", "sleep 0.02; exec cat >/dev/null")
		cmd.Stdin = s.Child()[0]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s.Started()
		_ = s.OpenInput()
		w, err := os.OpenFile(in, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CloseStdin(); err != nil {
			t.Error(err)
		}
		written := make(chan error, 1)
		go func() {
			_, err := w.Write(data)
			written <- errors.Join(err, w.Close())
		}()
		late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		if err := cmd.Wait(); err != nil {
			t.Fatalf("cat never saw the end of its input: %v", err)
		}
		late.Stop()
		if err := errors.Join(<-written, s.Drain(time.Second), s.Close()); err != nil {
			t.Error(err)
		}
	}
}
