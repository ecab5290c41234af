package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What is mounted below a snapshot that is removed is somebody's: the directories stay until it is unmounted, and
// what is in the mount stays anyway.
func TestTrashCrossesNoMount(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	mounts, err := s.Prepare(ctx, "a", "")
	must(t, err)
	theirs := t.TempDir()
	file := filepath.Join(theirs, "precious")
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	at := mounts[0].Source + "/x/dir"
	must(t, os.MkdirAll(at, 0o700))
	must(t, unix.Mount(theirs, at, "", unix.MS_BIND, ""))
	s.trash.close()
	must(t, s.Remove(ctx, "a"))
	where := filepath.Join(s.dirs.trash(), names(t, s.dirs.trash())[0], "fs", "x")
	unmount := func() { _ = unix.Unmount(where+"/dir", unix.MNT_DETACH) }
	defer unmount()
	s.trash = newTrash(s.dirs, s.quota, s.log)
	if err := s.trash.empty(); !errors.Is(err, unix.EXDEV) {
		t.Errorf("emptied: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("deleted what was mounted: %v", err)
	}
	unmount()
	must(t, s.trash.empty())
	if left := names(t, s.dirs.trash()); len(left) > 0 {
		t.Errorf("in trash/: %q", left)
	}
}

// TestCommitsAtOnce: who asks again because nothing was heard, while the first is still at work, takes nothing from
// what that commits.
func TestCommitsAtOnce(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s := open(t, root)
	const layers = 30
	for i := range layers {
		name := fmt.Sprint("layer", i)
		mounts, err := s.Prepare(ctx, "key", "")
		must(t, err)
		must(t, os.WriteFile(mounts[0].Source+"/f", nil, 0o600))
		var all sync.WaitGroup
		var committed atomic.Int64
		for range 4 {
			all.Go(func() {
				switch err := s.Commit(ctx, name, "key"); {
				case err == nil:
					committed.Add(1)
				case !errdefs.IsNotFound(err) && !errdefs.IsAlreadyExists(err):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := committed.Load(); n != 1 {
			t.Errorf("committed %d times", n)
		}
	}
	must(t, s.Close())
	s = open(t, root)
	for i := range layers {
		if _, err := s.Stat(ctx, fmt.Sprint("layer", i)); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	}
}

// TestCommitOfAnother: the snapshot that was counted and brought to the disk is removed, and another has its key,
// before its commit is recorded.
func TestCommitOfAnother(t *testing.T) {
	needRoot(t)
	var s *Snapshotter
	t.Cleanup(func() { step = func(string) {} }) // after s is closed
	step = func(name string) {
		if name == "commit: settled" {
			must(t, s.Remove(ctx, "key"))
			must(t, second(s.Prepare(ctx, "key", "")))
		}
	}
	s = open(t, t.TempDir())
	must(t, second(s.Prepare(ctx, "key", "")))
	if err := s.Commit(ctx, "layer", "key"); !errdefs.IsNotFound(err) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	info, err := s.Stat(ctx, "key")
	if err != nil || info.Kind != snapshots.KindActive {
		t.Errorf("%v %v", info, err)
	}
}
