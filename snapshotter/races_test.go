package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// TestCallsAtOnce asks for all there is of a few names at once. Whatever the answers: each is of a kind that
// containerd knows, a restart changes nothing, and no directory is left of what was removed.
func TestCallsAtOnce(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s := open(t, root)
	const keys, callers, calls = 5, 6, 200
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for i := range callers {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		pick := func(kind string) string { return fmt.Sprintf("%s/%d\n", kind, rng.IntN(keys)) }
		all.Go(func() {
			for range calls {
				key, parent := pick("key"), ""
				if rng.IntN(2) == 0 {
					parent = pick("layer")
				}
				var err error
				switch rng.IntN(9) {
				case 0, 1:
					_, err = s.Prepare(ctx, key, parent)
				case 2:
					_, err = s.View(ctx, key, parent)
				case 3, 4:
					err = s.Commit(ctx, pick("layer"), key)
				case 5:
					err = s.Remove(ctx, key)
				case 6:
					err = s.Remove(ctx, pick("layer"))
				case 7:
					_, err = s.Usage(ctx, key)
				case 8:
					_, err = s.Mounts(ctx, key)
				}
				if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsAlreadyExists(err) &&
					!errdefs.IsFailedPrecondition(err) && !errdefs.IsInvalidArgument(err) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	before := listed(t, s)
	must(t, s.Close())
	s = open(t, root)
	if after := listed(t, s); !slices.Equal(before, after) {
		t.Errorf("before a restart\n%q, after it\n%q", before, after)
	}
	for range keys + 1 { // parents have children
		for _, name := range listed(t, s) {
			_ = s.Remove(ctx, name)
		}
	}
	if left := append(listed(t, s), names(t, s.dirs.snapshots())...); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func listed(t *testing.T, s *Snapshotter) (list []string) {
	t.Helper()
	must(t, s.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		list = append(list, info.Name)
		return nil
	}))
	return list
}
