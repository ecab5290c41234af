package shim

import (
	"runtime"
	"testing"
)

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
