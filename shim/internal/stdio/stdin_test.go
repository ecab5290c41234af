package stdio

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A client that goes away does not end the input, nor does CloseStdin before the client's close.
func TestStdinEnd(t *testing.T) {
	c := newClient(t)
	s := mustOpen(t, c.cfg)
	cmd := sh(t, s, `cat`)
	out := collect(c.out)
	_ = collect(c.err)
	in := <-c.in
	_, _ = io.WriteString(in, "one ")
	_ = in.Close()
	time.Sleep(50 * time.Millisecond)
	in, err := os.OpenFile(c.cfg.Stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(in, "two ")
	if err := s.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(in, "three")
	_ = in.Close()
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	want(t, "stdout", receive(t, out), "one two three")
}

// What was written before CloseStdin arrives, however slow the process is.
func TestStdinMuch(t *testing.T) {
	c := newClient(t)
	s := mustOpen(t, c.cfg)
	cmd := sh(t, s, `sleep 0.2; sha256sum`)
	out := collect(c.out)
	_ = collect(c.err)
	data := randomBytes(3<<20 + 77)
	in := <-c.in
	go func() {
		_, _ = in.Write(data)
		_ = in.Close()
	}()
	if err := s.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	waitExit(t, cmd, 10*time.Second)
	mustDrain(t, s)
	want(t, "sum", receive(t, out), sum(data)+"  -\n")
}

// A process that closes its input ends the copying; the client gets EPIPE.
func TestStdinClosedByProcess(t *testing.T) {
	c := newClient(t)
	s := mustOpen(t, c.cfg)
	cmd := sh(t, s, `exec <&-; sleep 0.5`)
	_, _ = collect(c.out), collect(c.err)
	in := <-c.in
	eventually(t, "EPIPE", func() bool {
		_, err := in.Write(make([]byte, 100))
		return errors.Is(err, unix.EPIPE)
	})
	_ = in.Close()
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
}

// Before OpenInput a client waits, so that it has nothing to close; Close lets it go.
func TestStdinWaits(t *testing.T) {
	c := newClient(t)
	s := mustOpen(t, c.cfg)
	_, _ = collect(c.out), collect(c.err)
	select {
	case <-c.in:
		t.Error("the client was let in")
	case <-time.After(20 * time.Millisecond):
	}
	mustClose(t, s)
	in := late(t, c)
	if _, err := in.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("a write to nobody: %v", err)
	}
	_ = in.Close()
}
