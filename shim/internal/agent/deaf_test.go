package agent

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDeafen: a signal that would end this process does nothing, on whatever
// thread and however often, and what is executed has it at its default.
func TestDeafen(t *testing.T) {
	const sig = unix.SIGUSR2
	if err := Deafen(sig); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // stacks that move and garbage that is collected meanwhile
		defer close(done)
		for range 200 {
			runtime.GC()
		}
	}()
	for running := true; running; {
		if err := unix.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			running = false
		default:
		}
	}
	if caught, ignored := masks(t, "/proc/self/status"); caught&(1<<(sig-1)) == 0 || ignored&(1<<(sig-1)) != 0 {
		t.Errorf("caught %x, ignored %x", caught, ignored)
	}
	out, err := exec.Command("/bin/cat", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/status"
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	if caught, ignored := masks(t, file); caught != 0 || ignored&(1<<(sig-1)) != 0 {
		t.Errorf("after execve: caught %x, ignored %x", caught, ignored)
	}
	if err := Deafen(unix.SIGKILL); err == nil {
		t.Error("SIGKILL can be caught")
	}
}

// masks are SigCgt and SigIgn: proc_pid_status(5).
func masks(t *testing.T, file string) (caught, ignored uint64) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		v, _ := strconv.ParseUint(value, 16, 64)
		switch name {
		case "SigCgt":
			caught = v
		case "SigIgn":
			ignored = v
		}
	}
	return caught, ignored
}
