package stdio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// outOnly is an IO with nothing but a stdout FIFO, and the client's end of it.
func outOnly(t testing.TB, grace time.Duration) (s *IO, path string, reader *os.File) {
	t.Helper()
	path = fifoPath(t, "out")
	ch := openAsync(path, os.O_RDONLY)
	s = mustOpen(t, Config{Stdout: path, grace: grace})
	return s, path, <-ch
}

// numbers is a script that writes n numbered lines; checkNumbers reads them.
func numbers(n int) string {
	return `i=0; while [ $i -lt ` + strconv.Itoa(n) + ` ]; do echo $i; i=$((i+1)); done`
}

func checkNumbers(t testing.TB, got string, n int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != n {
		t.Fatalf("%d lines, want %d", len(lines), n)
	}
	for i, l := range lines {
		if l != strconv.Itoa(i) {
			t.Fatalf("line %d is %q", i, l)
		}
	}
}

// A reader that dies and comes back has all that it has not read: containerd restarts.
func TestReaderComesBack(t *testing.T) {
	s, path, f := outOnly(t, 0)
	dir := t.TempDir()
	// 15,000 lines of up to six bytes: more than the FIFO, less than FIFO and pipe.
	cmd := sh(t, s, `echo first; until test -e `+dir+`/go; do sleep 0.01; done; `+numbers(15000)+`; touch `+dir+`/end; sleep 0.3`)
	want(t, "line", nextLine(t, f), "first")
	_ = f.Close()
	_ = os.WriteFile(dir+"/go", nil, 0o600)
	// The process is not blocked: both fit.
	eventually(t, "the process's end", func() bool { _, err := os.Stat(dir + "/end"); return err == nil })
	out := collect(openAsync(path, os.O_RDONLY))
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	checkNumbers(t, receive(t, out), 15000)
}

// The same with more than fits: the process waits, and nothing is lost within the time of grace.
func TestReaderComesBackLate(t *testing.T) {
	s, path, f := outOnly(t, 0)
	cmd := sh(t, s, `echo first; sleep 0.1; `+numbers(200000))
	want(t, "line", nextLine(t, f), "first")
	_ = f.Close()
	time.Sleep(time.Second)
	select {
	case <-cmd.done:
		t.Fatal("the process was not held up")
	default:
	}
	out := collect(openAsync(path, os.O_RDONLY))
	waitExit(t, cmd, 10*time.Second)
	mustDrain(t, s)
	checkNumbers(t, receive(t, out), 200000)
}

// Readers come and go all the time; each goes on where the last one stopped.
func TestReadersTakeTurns(t *testing.T) {
	s, path, f := outOnly(t, 0)
	const n = 300000
	cmd := sh(t, s, `seq 0 `+strconv.Itoa(n-1))
	size := 0
	for i := range n {
		size += len(strconv.Itoa(i)) + 1
	}
	var got bytes.Buffer
	for got.Len() < size {
		if _, err := io.CopyN(&got, f, int64(min(50000, size-got.Len()))); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		if got.Len() < size {
			f = <-openAsync(path, os.O_RDONLY)
		}
	}
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	checkNumbers(t, got.String(), n)
}

// With the reader gone for good the process writes 10 MB and ends; the oldest are kept, as
// many as the FIFO holds: it may have been enlarged.
func TestReaderGone(t *testing.T) {
	s, path, f := outOnly(t, 300*time.Millisecond)
	_ = f.Close()
	begin := time.Now()
	cmd := sh(t, s, `seq 0 1400000`) // 10 MB
	waitExit(t, cmd, 10*time.Second)
	if d := time.Since(begin); d < 300*time.Millisecond {
		t.Errorf("no time of grace: %v", d)
	}
	mustDrain(t, s)
	// The last words wait for whoever comes before Close. containerd's client waits for the end of
	// file before it calls Delete, so it must have that without a Close.
	got := receive(t, collect(openAsync(path, os.O_RDONLY)))
	mustClose(t, s)
	if len(got) < 64<<10 || len(got) > widePipe || !strings.HasPrefix(got, "0\n1\n2\n") {
		t.Errorf("%d bytes kept: %.20q", len(got), got)
	}
}

// After the time of grace a new reader gets what was kept, and what comes from then on.
func TestReaderAfterGrace(t *testing.T) {
	s, path, f := outOnly(t, 100*time.Millisecond)
	_ = f.Close()
	dir := t.TempDir()
	cmd := sh(t, s, `seq 0 1400000; touch `+dir+`/end; until test -e `+dir+`/go; do sleep 0.01; done; `+
		`echo; head -c 1000000 /dev/zero; echo new`)
	eventually(t, "the process's end", func() bool { _, err := os.Stat(dir + "/end"); return err == nil })
	time.Sleep(100 * time.Millisecond)
	out := collect(openAsync(path, os.O_RDONLY))
	time.Sleep(100 * time.Millisecond)
	_ = os.WriteFile(dir+"/go", nil, 0o600)
	waitExit(t, cmd, 10*time.Second)
	mustDrain(t, s)
	got := receive(t, out)
	if !strings.HasPrefix(got, "0\n1\n2\n") || !strings.HasSuffix(got, strings.Repeat("\x00", 1000000)+"new\n") {
		t.Errorf("%d bytes: %.20q ... %q", len(got), got, got[max(0, len(got)-20):])
	}
}

// An unlinked FIFO has no reader to wait for.
func TestReaderGoneUnlinked(t *testing.T) {
	s, path, f := outOnly(t, time.Hour)
	_ = f.Close()
	_ = os.Remove(path)
	cmd := sh(t, s, `head -c 10000000 /dev/zero`)
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	mustClose(t, s)
}

// A reader that dies while the pump waits for it.
func TestReaderDiesFull(t *testing.T) {
	s, _, f := outOnly(t, 100*time.Millisecond)
	cmd := sh(t, s, `head -c 10000000 /dev/zero`)
	time.Sleep(200 * time.Millisecond) // FIFO and pipe are full
	_ = f.Close()
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
}

// A reader that stands still gets all when it goes on, however long that is.
func TestReaderStops(t *testing.T) {
	s, _, f := outOnly(t, 50*time.Millisecond)
	cmd := sh(t, s, numbers(100000))
	time.Sleep(time.Second)
	select {
	case <-cmd.done:
		t.Fatal("the process was not held up")
	default:
	}
	ch := make(chan *os.File, 1)
	ch <- f
	out := collect(ch)
	waitExit(t, cmd, 10*time.Second)
	mustDrain(t, s)
	checkNumbers(t, receive(t, out), 100000)
}

// A FIFO that is fed line by line holds 64 KiB of lines, not 16 of them.
func TestReaderStopsManyLines(t *testing.T) {
	s, _, f := outOnly(t, 0)
	// 78,890 bytes in 15,000 writes: with 16 lines in the FIFO the rest would not go into the pipe. What the
	// FIFO holds depends on the pieces it gets, of which two are in a page only if they fit.
	cmd := sh(t, s, numbers(15000))
	waitExit(t, cmd, 20*time.Second)
	ch := make(chan *os.File, 1)
	ch <- f
	out := collect(ch)
	mustDrain(t, s)
	checkNumbers(t, receive(t, out), 15000)
}

// fill writes into the FIFO as much as it takes.
func fill(t testing.TB, path string) (n int) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for page := make([]byte, 4096); err == nil; {
		m := 0
		if m, err = unix.Write(fd, page); err == nil {
			n += m
		}
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return n
}

// Drain is bounded when the reader stands still, and Close ends everything.
func TestDrainStuck(t *testing.T) {
	s, path, f := outOnly(t, 0)
	full := fill(t, path)
	cmd := sh(t, s, numbers(2000))
	waitExit(t, cmd, 20*time.Second)
	begin := time.Now()
	err := s.Drain(100 * time.Millisecond)
	if err == nil || err.Error() != "stdout: drain: i/o timeout" {
		t.Errorf("got %v", err)
	}
	mustClose(t, s)
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	got, err := io.ReadAll(f) // what was there is there, then the end
	if err != nil || len(got) != full {
		t.Errorf("%d bytes, want %d: %v", len(got), full, err)
	}
	_ = f.Close()
}

// A grandchild that keeps stdout open, or floods it, does not hold up Drain; what the process
// itself has written is all there.
func TestGrandchild(t *testing.T) {
	for name, script := range map[string]string{
		"silent": `sleep 100 &`,
		"flood":  `yes &`,
	} {
		t.Run(name, func(t *testing.T) {
			s, _, f := outOnly(t, 0)
			pid := filepath.Join(t.TempDir(), "pid")
			cmd := sh(t, s, numbers(5000)+"\n"+script+` echo $! >`+pid)
			ch := make(chan *os.File, 1)
			ch <- f
			out := collect(ch)
			waitExit(t, cmd, 5*time.Second)
			begin := time.Now()
			mustDrain(t, s)
			if d := time.Since(begin); d > time.Second {
				t.Errorf("drain took %v", d)
			}
			got := receive(t, out) // the end of file came with Drain
			if name == "flood" {
				got, _, _ = strings.Cut(got, "y\n")
			}
			checkNumbers(t, got, 5000)
			killFrom(t, pid)
			mustClose(t, s)
		})
	}
}

// Close in the middle of everything, from every state.
func TestCloseAnywhere(t *testing.T) {
	for name, prepare := range map[string]func(s *IO, f *os.File){
		"reading":  func(*IO, *os.File) {},
		"orphaned": func(_ *IO, f *os.File) { _ = f.Close(); time.Sleep(100 * time.Millisecond) },
		"full":     func(*IO, *os.File) { time.Sleep(100 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			s, _, f := outOnly(t, 0)
			cmd := sh(t, s, `yes`)
			prepare(s, f)
			begin := time.Now()
			mustClose(t, s)
			if d := time.Since(begin); d > 500*time.Millisecond {
				t.Errorf("took %v", d)
			}
			<-cmd.done // SIGPIPE
			_ = f.Close()
		})
	}
}

// A reader's death costs no SIGPIPE storm while output is dropped: counted by the kernel.
func TestNoSignals(t *testing.T) {
	s, _, f := outOnly(t, time.Millisecond)
	_ = f.Close()
	var before, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	cmd := sh(t, s, `head -c 50000000 /dev/zero`)
	waitExit(t, cmd, 10*time.Second)
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	t.Logf("dropping 50 MB: %v of CPU", cpu)
	mustDrain(t, s)
}

// containerd's client stops reading when it hears of the exit, which is told after Drain: by then
// it must have read all.
func TestReaderCancelled(t *testing.T) {
	for i := range 50 {
		s, _, f := outOnly(t, 0)
		size := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, f)
			size <- n
		}()
		cmd := sh(t, s, `head -c 120000 /dev/zero`)
		waitExit(t, cmd, 5*time.Second)
		mustDrain(t, s)
		_ = f.Close()
		if n := <-size; n != 120000 {
			t.Fatalf("%d: %d bytes", i, n)
		}
		mustClose(t, s)
	}
}

// A reader that stands still at the exit holds it up for a moment only, and has its end of file
// when it goes on.
func TestReaderStopsAtExit(t *testing.T) {
	s, _, f := outOnly(t, 0)
	waitExit(t, sh(t, s, `echo last words`), 5*time.Second)
	begin := time.Now()
	mustDrain(t, s)
	if d := time.Since(begin); d < readWait || d > readWait+200*time.Millisecond {
		t.Errorf("drain took %v", d)
	}
	mustClose(t, s)
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "stdout", string(b), "last words\n")
	_ = f.Close()
}

// A reader that dies with the process leaves the last words to the next one.
func TestReaderDiesAtExit(t *testing.T) {
	s, path, f := outOnly(t, 0)
	waitExit(t, sh(t, s, `echo last words`), 5*time.Second)
	mustDrain(t, s)
	_ = f.Close()
	time.Sleep(100 * time.Millisecond)
	want(t, "stdout", receive(t, collect(openAsync(path, os.O_RDONLY))), "last words\n")
	mustClose(t, s)
}
