package stdio

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "log")
	for range 2 {
		s := mustOpen(t, Config{Stdout: "file://" + path, Stderr: "file://" + path})
		waitExit(t, sh(t, s, `echo o; echo e >&2`), 5*time.Second)
		mustDrain(t, s)
		mustClose(t, s)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "file", string(b), "o\ne\no\ne\n")
	if st, _ := os.Stat(path); st.Mode() != 0o644 {
		t.Errorf("mode %v", st.Mode())
	}
}

// A full disk blocks nobody, is remembered, and is over when there is room again: containerd#12462.
func TestFileFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	gap := filepath.Join(dir, "ballast")
	if err := os.WriteFile(gap, make([]byte, 900<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, Config{Stdout: "file://" + dir + "/log"})
	marker := filepath.Join(t.TempDir(), "go")
	cmd := sh(t, s, `dd if=/dev/zero bs=64k count=160 2>/dev/null; touch `+marker+`1; until test -e `+marker+`; do sleep 0.02; done; echo again`)
	eventually(t, "an error", func() bool { return errors.Is(s.Err(), unix.ENOSPC) })
	eventually(t, "the end of dd", func() bool { _, err := os.Stat(marker + "1"); return err == nil })
	time.Sleep(100 * time.Millisecond)
	_ = os.Remove(gap)
	_ = os.WriteFile(marker, nil, 0o600)
	waitExit(t, cmd, 5*time.Second)
	mustDrain(t, s)
	b, _ := os.ReadFile(dir + "/log")
	if !bytes.HasSuffix(b, []byte("again\n")) {
		t.Errorf("log of %d bytes does not go on", len(b))
	}
	if err := s.Err(); !strings.HasPrefix(err.Error(), "stdout: write: no space left on device, ") {
		t.Error(err)
	}
	mustClose(t, s)
}
