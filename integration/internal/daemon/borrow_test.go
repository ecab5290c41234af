package daemon

import (
	"os"
	"sync"
	"testing"
)

// The directory is there as long as anybody has borrowed it, and is gone after the last one.
func TestBorrow(t *testing.T) {
	dir := t.TempDir() + "/run"
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				giveBack, err := borrow(dir)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Stat(dir); err != nil {
					t.Errorf("while it is borrowed: %v", err)
				}
				giveBack()
			}
		})
	}
	all.Wait()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("after the last one: %v", err)
	}
}
