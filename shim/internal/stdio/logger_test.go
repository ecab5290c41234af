package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loggerMain is the test binary as a log binary. Its arguments are the pairs of the URI's query.
func loggerMain(args []string) int {
	arg := map[string]string{}
	for i := 0; i+1 < len(args); i += 2 {
		arg[args[i]] = args[i+1]
	}
	dir, how := arg["dir"], arg["how"]
	wait := os.NewFile(5, "CONTAINER_WAIT")
	write := func(name, text string) { _ = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	write("env", strings.Join(append(os.Environ(), args...), "\n"))
	write("pid", fmt.Sprint(os.Getpid()))
	term := make(chan os.Signal, 1)
	if how == "stubborn" {
		signal.Ignore(unix.SIGTERM)
	} else {
		signal.Notify(term, unix.SIGTERM)
	}
	switch how {
	case "never":
		time.Sleep(time.Hour)
	case "dies":
		return 3
	case "eof":
	default:
		_, _ = wait.Write([]byte{0})
	}
	_ = wait.Close()
	if how == "diesLater" {
		_, _ = io.ReadFull(os.NewFile(3, ""), make([]byte, 6))
		return 4
	}
	var wg sync.WaitGroup
	for fd, name := range map[uintptr]string{3: "out", 4: "err"} {
		wg.Go(func() {
			b, _ := io.ReadAll(os.NewFile(fd, name))
			write(name, string(b))
		})
	}
	wg.Wait()
	switch how {
	case "term": // does not end with its input
		<-term
		write("term", "")
	case "stubborn":
		time.Sleep(time.Hour)
	}
	return 0
}

// logURI names the test binary as a logger that works in dir.
func logURI(t testing.TB, scheme, dir, how string) string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	q := url.Values{"dir": {dir}, "how": {how}}
	return (&url.URL{Scheme: scheme, Path: filepath.Join(linkAs(t, exe), "logger"), RawQuery: q.Encode()}).String()
}

// linkAs makes a name for the test binary by which it knows that it is to be the logger.
func linkAs(t testing.TB, exe string) string {
	dir := t.TempDir()
	if err := os.Symlink(exe, filepath.Join(dir, "logger")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func readFile(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLogger(t *testing.T) {
	for _, scheme := range []string{"binary", "binary-v2"} {
		t.Run(scheme, func(t *testing.T) {
			dir := t.TempDir()
			uri := logURI(t, scheme, dir, "good")
			s := mustOpen(t, Config{Stdout: uri, Stderr: uri, ID: "c1", Namespace: "k8s"})
			if len(s.logs) != 1 {
				t.Fatalf("%d loggers", len(s.logs))
			}
			cmd := sh(t, s, numbers(30000)+`; echo e >&2`)
			waitExit(t, cmd, 10*time.Second)
			mustDrain(t, s)
			begin := time.Now()
			mustClose(t, s)
			if d := time.Since(begin); d > loggerEOF {
				t.Errorf("close took %v: it ends with its input", d)
			}
			checkNumbers(t, readFile(t, dir, "out"), 30000)
			want(t, "err", readFile(t, dir, "err"), "e\n")
			want(t, "env", readFile(t, dir, "env"), "CONTAINER_ID=c1\nCONTAINER_NAMESPACE=k8s\ndir\n"+dir+"\nhow\ngood")
			if err := s.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// binary takes an end of file for readiness, even of a logger that is dead; binary-v2 does not.
func TestLoggerReady(t *testing.T) {
	for _, c := range []struct{ scheme, how, want string }{
		{"binary", "eof", ""},
		{"binary", "dies", ""},
		{"binary-v2", "eof", "not ready: CONTAINER_WAIT closed without a byte"},
		{"binary-v2", "dies", "not ready: exit status 3"},
	} {
		dir := t.TempDir()
		s, err := Open(within(t, 5*time.Second), Config{Stdout: logURI(t, c.scheme, dir, c.how)})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), c.want)) {
			t.Errorf("%s %s: %v", c.scheme, c.how, err)
		}
		if s != nil {
			mustClose(t, s)
		}
	}
}

// A logger that never gets ready is waited for as long as the context says, and leaves nothing.
func TestLoggerNeverReady(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now()
	_, err := Open(within(t, 500*time.Millisecond), Config{Stdout: logURI(t, "binary", dir, "never")})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("took %v", d)
	}
	if err := unix.Access("/proc/"+readFile(t, dir, "pid"), unix.F_OK); err != unix.ENOENT {
		t.Errorf("still there: %v", err)
	}
}

// The death of a logger is neither SIGPIPE nor a block for the process, and is remembered.
func TestLoggerDies(t *testing.T) {
	for _, tty := range []bool{false, true} {
		t.Run(fmt.Sprint(tty), func(t *testing.T) {
			dir := t.TempDir()
			uri := logURI(t, "binary", dir, "diesLater")
			s := mustOpen(t, Config{Stdout: uri, Stderr: uri, Terminal: tty})
			begin := sh
			if tty {
				begin = startTTY
			}
			cmd := begin(t, s, `echo first; head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 0`)
			waitExit(t, cmd, 5*time.Second)
			mustDrain(t, s)
			eventually(t, "an error", func() bool {
				return s.Err() != nil && strings.Contains(s.Err().Error(), "exit status 4") &&
					strings.HasSuffix(s.Err().Error(), " bytes dropped")
			})
			mustClose(t, s)
		})
	}
}

func TestLoggerEnd(t *testing.T) {
	for how, least := range map[string]time.Duration{
		"term":     loggerEOF,
		"stubborn": loggerEOF + 200*time.Millisecond,
	} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, Config{Stdout: logURI(t, "binary-v2", dir, how), term: 200 * time.Millisecond})
			waitExit(t, sh(t, s, `echo hi`), 5*time.Second)
			mustDrain(t, s)
			begin := time.Now()
			mustClose(t, s)
			if d := time.Since(begin); d < least || d > least+time.Second {
				t.Errorf("close took %v", d)
			}
			want(t, "out", readFile(t, dir, "out"), "hi\n")
			if how == "term" {
				readFile(t, dir, "term")
			}
			if err := s.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// With a terminal the logger has its output as stdout, and an empty stderr that ends with it.
func TestLoggerTerminal(t *testing.T) {
	dir := t.TempDir()
	uri := logURI(t, "binary", dir, "good")
	s := mustOpen(t, Config{Stdout: uri, Stderr: uri, Terminal: true})
	cmd := startTTY(t, s, `echo hi; echo ho >&2`)
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	mustClose(t, s)
	want(t, "out", readFile(t, dir, "out"), "hi\r\nho\r\n")
	want(t, "err", readFile(t, dir, "err"), "")
}

// A grandchild that keeps the pipe open keeps the logger alive until Close.
func TestLoggerGrandchild(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, Config{Stdout: logURI(t, "binary", dir, "good"), term: 200 * time.Millisecond})
	cmd := sh(t, s, `sleep 100 & echo $! >`+dir+`/sleep; echo hi`)
	waitExit(t, cmd, 5*time.Second)
	begin := time.Now()
	mustDrain(t, s)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("drain took %v", d)
	}
	mustClose(t, s)
	killFrom(t, dir+"/sleep")
}

// Two different log binaries, and one beside a FIFO.
func TestLoggerOfEach(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	s := mustOpen(t, Config{Stdout: logURI(t, "binary", a, "good"), Stderr: logURI(t, "binary-v2", b, "good")})
	waitExit(t, sh(t, s, `echo o; echo e >&2`), 5*time.Second)
	mustDrain(t, s)
	mustClose(t, s)
	want(t, "out", readFile(t, a, "out")+readFile(t, a, "err"), "o\n")
	want(t, "err", readFile(t, b, "out")+readFile(t, b, "err"), "e\n")

	path := fifoPath(t, "out")
	out := collect(openAsync(path, os.O_RDONLY))
	a = t.TempDir()
	s = mustOpen(t, Config{Stdout: path, Stderr: logURI(t, "binary", a, "good")})
	waitExit(t, sh(t, s, `echo o; echo e >&2`), 5*time.Second)
	mustDrain(t, s)
	want(t, "out", receive(t, out), "o\n")
	mustClose(t, s)
	want(t, "err", readFile(t, a, "err"), "e\n")
}

// A slow logger is backpressure; Drain says that it has not read all.
func TestLoggerSlow(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, Config{Stdout: logURI(t, "binary", dir, "good")})
	pid := s.logs[0].pid
	_ = unix.Kill(pid, unix.SIGSTOP)
	cmd := sh(t, s, numbers(5000))
	waitExit(t, cmd, 5*time.Second)
	if err := s.Drain(100 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	_ = unix.Kill(pid, unix.SIGCONT)
	mustDrain(t, s)
	mustClose(t, s)
	checkNumbers(t, readFile(t, dir, "out"), 5000)
}

func TestLocate(t *testing.T) {
	var b bytes.Buffer
	for _, a := range []string{"/a/b%zz", "fifo:///a/b", "file:/x", "file:///x%20y", "binary:///l?a=b&c", "%zz:"} {
		u, err := locate(a)
		if err != nil {
			fmt.Fprintln(&b, err)
			continue
		}
		fmt.Fprintln(&b, u.Scheme, u.Path, u.Query())
	}
	want(t, "locate", b.String(), `fifo /a/b%zz map[]
fifo /a/b map[]
file /x map[]
file /x y map[]
binary /l map[a:[b] c:[]]
parse "%zz:": first path segment in URL cannot contain colon
`)
}
