package shim

import (
	"runtime/debug"
	"sync"
	"time"
)

// idle calls a function after some time of nothing.
type idle struct {
	timeout time.Duration
	timer   *time.Timer
}

func newIdle(timeout time.Duration, f func()) *idle {
	return &idle{timeout: timeout, timer: time.AfterFunc(timeout, f)}
}

func (i *idle) set(on bool) {
	if on {
		i.timer.Reset(i.timeout)
	} else {
		i.timer.Stop()
	}
}

// memory is what Go holds of the kernel's.
type memory struct {
	mu   sync.Mutex
	seen int64 // collections
}

// giveBack returns to the kernel what a burst of requests has left. Nothing else would: Go keeps what it has
// freed for the next burst. That there has been a burst is told by a collection. Without one there is little to
// give, and a first one would cost more: it makes tables of some 900 kB, and runtime.ReadMemStats most of them.
func (m *memory) giveBack() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s debug.GCStats
	if debug.ReadGCStats(&s); s.NumGC == m.seen {
		return
	}
	debug.FreeOSMemory() // takes 1 ms
	debug.ReadGCStats(&s)
	m.seen = s.NumGC
}
