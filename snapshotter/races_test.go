package snapshotter

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

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
