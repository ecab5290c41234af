package container

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenInRoot: renames elsewhere keep nobody from following "..".
func TestOpenInRoot(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	for _, name := range []string{dir + "/a", other + "/x"} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	stop := make(chan struct{})
	var renamer sync.WaitGroup
	renamer.Go(func() {
		from, to := filepath.Join(other, "x"), filepath.Join(other, "y")
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := os.Rename(from, to); err != nil {
				t.Error(err)
				return
			}
			from, to = to, from
		}
	})
	for range 3000 {
		fd, err := openInRoot(root, strings.Repeat("a/../", 50), unix.O_PATH)
		if err != nil {
			t.Error(err)
			break
		}
		unix.Close(fd)
	}
	close(stop)
	renamer.Wait()
}
