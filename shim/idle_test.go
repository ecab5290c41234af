package shim

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containerd-mini/mini/shim/internal/api"
	"github.com/containerd-mini/mini/shim/internal/container"
)

// TestLinger: a shim that lingers does not end with its last container, nor while one may be on its way.
func TestLinger(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := false
	s := &service{
		containers: map[string]*container.Container{}, socket: socket, linger: true, shutdown: func() { ended = true },
		idle: newIdle(time.Hour, func() {}),
	}
	goesOn := func(when string) {
		t.Helper()
		if _, err := os.Stat(socket); ended || err != nil {
			t.Fatalf("%s: it ends: %v, %v", when, ended, err)
		}
	}
	if _, err := s.Shutdown(t.Context(), &api.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	goesOn("without containers")
	if err := s.reserve("c1"); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(socket, old, old); err != nil {
		t.Fatal(err)
	}
	s.endIfIdle()
	goesOn("with a container")
	s.forget("c1", nil)
	if err := os.Chtimes(socket, time.Time{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	s.endIfIdle()
	goesOn("with one on its way")
	if !s.idle.timer.Stop() {
		t.Error("it does not look again whether it is idle")
	}
	if err := os.Chtimes(socket, old, old); err != nil {
		t.Fatal(err)
	}
	s.endIfIdle()
	if _, err := os.Stat(socket); !ended || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it does not end: %v, %v", ended, err)
	}
	if err := s.reserve("c2"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

var leftByBurst []byte

func TestGiveBack(t *testing.T) {
	const much = 64 << 20
	leftByBurst = make([]byte, much)
	runtime.GC()
	if held() < much {
		t.Fatalf("%d bytes are held, and the burst alone has %d", held(), much)
	}
	leftByBurst = nil
	var m memory
	m.giveBack()
	if held() > much/2 {
		t.Errorf("%d bytes are held", held())
	}
	leftByBurst = make([]byte, 1<<10)
	seen := m.seen
	m.giveBack()
	if m.seen != seen {
		t.Error("it gives back again, where there was no burst")
	}
}

func held() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapSys - s.HeapReleased
}
