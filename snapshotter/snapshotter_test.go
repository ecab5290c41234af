package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// layerOf commits a snapshot with one file.
func layerOf(t testing.TB, s snapshots.Snapshotter, name, parent, file, text string) {
	t.Helper()
	mounts, err := s.Prepare(ctx, name+"-key", parent)
	must(t, err)
	must(t, mount.WithTempMount(ctx, mounts, func(root string) error {
		return os.WriteFile(filepath.Join(root, file), []byte(text), 0o644)
	}))
	must(t, s.Commit(ctx, name, name+"-key"))
}

func TestRemoveIsARename(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	mounts, err := s.Prepare(ctx, "a", "")
	must(t, err)
	for i := range 100 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", mounts[0].Source, i), nil, 0o600))
	}
	s.trash.close() // nothing is deleted from here on
	must(t, s.Remove(ctx, "a"))
	if got := names(t, s.dirs.snapshots()); len(got) > 0 {
		t.Errorf("in snapshots/: %q", got)
	}
	if got := names(t, s.dirs.trash()); len(got) != 1 || !strings.HasPrefix(got[0], "1.") {
		t.Errorf("in trash/: %q", got)
	}
	s.trash = newTrash(s.dirs, s.quota, s.log) // as after a restart
	eventually(t, "the trash is empty", func() bool { return len(names(t, s.dirs.trash())) == 0 })
}

// A container can nest directories deeper than a process can open descriptors.
func TestTrashDeletesAbyss(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	s.trash.close()
	const depth = 5000
	fd, err := unix.Open(s.dirs.trash(), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range depth {
		must(t, unix.Mkdirat(fd, "d", 0o700))
		below, err := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		unix.Close(fd)
		fd = below
	}
	unix.Close(fd)
	s.trash = newTrash(s.dirs, s.quota, s.log)
	eventually(t, "the trash is empty", func() bool { return len(names(t, s.dirs.trash())) == 0 })
}

// Requests on a full disk fail by name, leave nothing, and removing works: it is what makes room.
func TestFullDisk(t *testing.T) {
	root := onFileSystem(t, "ext4")
	s := open(t, root+"/root")
	layerOf(t, s, "base", "", "f", "x")
	mounts, err := s.Prepare(ctx, "big", "")
	must(t, err)
	fillDisk(t, mounts[0].Source)

	var refused error
	prepared := []string{"big"}
	for i := 0; refused == nil && i < 100000; i++ {
		key := fmt.Sprintf("a%d", i)
		if _, refused = s.Prepare(ctx, key, "base"); refused == nil {
			prepared = append(prepared, key)
		}
	}
	if !errors.Is(refused, unix.ENOSPC) || strings.Contains(refused.Error(), "\n") {
		t.Fatalf("after %d: %v", len(prepared), refused)
	}
	t.Logf("%d prepared, then: %v", len(prepared), refused)
	// The layer and what was prepared, nothing else.
	if got := names(t, s.dirs.snapshots()); len(got) != 1+len(prepared) {
		t.Errorf("%d prepared, %d directories", len(prepared), len(got))
	}
	if _, err := s.Mounts(ctx, prepared[len(prepared)-1]); err != nil {
		t.Error(err)
	}
	for _, key := range prepared {
		if err := s.Remove(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "there is room", func() bool { return second(s.Prepare(ctx, "again", "base")) == nil })
}

// fillDisk writes until there is no room.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(dir + "/filler")
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// Descriptors may run out; what needs none goes on, the rest says so.
func TestNoDescriptors(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	layerOf(t, s, "base", "", "f", "x")
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}))
	restore := func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }
	defer restore()

	if _, err := s.Prepare(ctx, "a", "base"); err != nil {
		t.Errorf("Prepare: %v", err)
	}
	if _, err := s.Mounts(ctx, "a"); err != nil {
		t.Errorf("Mounts: %v", err)
	}
	if _, err := s.Usage(ctx, "a"); !errors.Is(err, unix.EMFILE) {
		t.Errorf("Usage: %v", err)
	}
	if err := s.Commit(ctx, "layer", "a"); !errors.Is(err, unix.EMFILE) {
		t.Errorf("Commit: %v", err)
	}
	if err := s.Remove(ctx, "a"); err != nil {
		t.Errorf("Remove: %v", err)
	}
	restore()
	if _, err := s.Prepare(ctx, "a", "base"); err != nil {
		t.Error(err)
	}
	must(t, s.Commit(ctx, "layer", "a"))
	s.trash.wake() // it would try again by itself, later
	eventually(t, "the trash is empty", func() bool { return len(names(t, s.dirs.trash())) == 0 })
}

func TestErrorsArePlain(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	layerOf(t, s, "base", "", "f", "x")
	_, err := s.Prepare(ctx, "base", "")
	if !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	for name, test := range map[string]struct {
		err  error
		want error
	}{
		"prepare on none":   {second(s.Prepare(ctx, "a", "none")), errdefs.ErrNotFound},
		"mounts of none":    {second(s.Mounts(ctx, "none")), errdefs.ErrNotFound},
		"mounts of a layer": {second(s.Mounts(ctx, "base")), errdefs.ErrFailedPrecondition},
		"remove of none":    {s.Remove(ctx, "none"), errdefs.ErrNotFound},
		"commit of none":    {s.Commit(ctx, "x", "none"), errdefs.ErrNotFound},
		"commit of a layer": {s.Commit(ctx, "x", "base"), errdefs.ErrFailedPrecondition},
		"half an idmap": {second(s.Prepare(ctx, "a", "base", snapshots.WithLabels(map[string]string{
			snapshots.LabelSnapshotUIDMapping: "0:1000:1"}))), errdefs.ErrInvalidArgument},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v", name, test.err)
		}
		if text := fmt.Sprint(test.err); strings.Contains(text, "\n") {
			t.Errorf("%s: %q", name, text)
		}
	}
	if left := names(t, s.dirs.snapshots()); len(left) != 1 {
		t.Errorf("snapshots/: %q", left)
	}
}

func second[T any](_ T, err error) error { return err }

func TestUsage(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	mounts, err := s.Prepare(ctx, "a", "")
	must(t, err)
	dir := mounts[0].Source
	must(t, os.Mkdir(dir+"/d", 0o755))
	must(t, os.WriteFile(dir+"/d/f", make([]byte, 64<<10), 0o644))
	must(t, os.Link(dir+"/d/f", dir+"/d/g"))
	must(t, os.Symlink("/etc", dir+"/d/s")) // not followed
	active, err := s.Usage(ctx, "a")
	must(t, err)
	must(t, s.Commit(ctx, "layer", "a"))
	committed, err := s.Usage(ctx, "layer")
	must(t, err)
	if active.Inodes != 4 || committed.Inodes != 4 || committed.Size < 64<<10 {
		t.Errorf("active %v, committed %v", active, committed)
	}
	must(t, os.RemoveAll(s.dirs.fs("1")))
	if again, err := s.Usage(ctx, "layer"); err != nil || again != committed {
		t.Errorf("it was walked again: %v, %v", again, err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	c := s.Config
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "metadata.db") {
		t.Errorf("%v", err)
	}
}

func TestRootOf(t *testing.T) {
	for text, want := range map[string]int{
		"0:1000:65536":          1000,
		"1:5:10,0:4294967294:1": 4294967294,
		"":                      -1, "0:1": -1, "0:1:0": -1, "0:-1:1": -1, "1:1:1": -1, "0:4294967296:1": -1, "0:4294967295:1": -1, "0:4294967290:6": -1, "a:b:c": -1,
	} {
		got, err := rootOf(text)
		if want < 0 && !errdefs.IsInvalidArgument(err) || want >= 0 && (err != nil || got != want) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func TestIDMapped(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	layerOf(t, s, "base", "", "f", "x")
	mounts, err := s.Prepare(ctx, "a", "base", snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotUIDMapping: "0:100000:65536", snapshots.LabelSnapshotGIDMapping: "0:200000:65536",
	}))
	must(t, err)
	must(t, mount.WithTempMount(ctx, mounts, func(root string) error {
		for _, path := range []string{root, root + "/f"} {
			var st unix.Stat_t
			must(t, unix.Stat(path, &st))
			if st.Uid != 100000 || st.Gid != 200000 {
				t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
			}
		}
		return nil
	}))
	var st unix.Stat_t
	must(t, unix.Stat(s.dirs.fs("1")+"/f", &st))
	if st.Uid != 0 {
		t.Errorf("the layer was changed: %d", st.Uid)
	}
}

// mount(2) takes one page of options. containerd's mount gives paths relative to what they have in
// common, so that the number of layers is bounded by the length of "NUMBER/fs:".
func TestManyLayersLongPath(t *testing.T) {
	root := onFileSystem(t, "tmpfs") + "/" + strings.Repeat("long", 40)
	s := open(t, root)
	const layers = 400
	parent := ""
	for i := range layers {
		key, name := fmt.Sprintf("key-%d", i), fmt.Sprintf("layer-%d", i)
		must(t, second(s.Prepare(ctx, key, parent)))
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", s.dirs.fs(fmt.Sprint(i+1)), i), nil, 0o600))
		must(t, s.Commit(ctx, name, key))
		parent = name
	}
	mounts, err := s.Prepare(ctx, "box", parent)
	must(t, err)
	must(t, mount.WithTempMount(ctx, mounts, func(root string) error {
		if got := len(names(t, root)); got != layers {
			t.Errorf("%d files", got)
		}
		return nil
	}))
}

// A container with a volatile upper is stopped and started again, and committed.
func TestVolatile(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir(), func(c *Config) { c.Volatile = true })
	layerOf(t, s, "base", "", "f", "x")
	first, err := s.Prepare(ctx, "box", "base")
	must(t, err)
	dir := t.TempDir()
	run := func(mounts []mount.Mount, file string) error {
		if err := mount.All(mounts, dir); err != nil { // WithTempMount leaves volatile out
			return err
		}
		defer func() { must(t, mount.UnmountAll(dir, 0)) }()
		return os.WriteFile(dir+"/"+file, nil, 0o600)
	}
	must(t, run(first, "one"))
	if err := run(first, "no"); err == nil {
		t.Error("the kernel takes a volatile upper twice: nothing is tested here")
	}
	again, err := s.Mounts(ctx, "box")
	must(t, err)
	must(t, run(again, "two"))
	must(t, s.Commit(ctx, "layer", "box"))
	must(t, second(s.View(ctx, "look", "layer")))
	look, err := s.Mounts(ctx, "look")
	must(t, err)
	must(t, mount.WithTempMount(ctx, look, func(root string) error {
		if got := fmt.Sprint(names(t, root)); got != "[f one two]" {
			t.Error(got)
		}
		return nil
	}))
}

// A file that is thrown away is there until the transaction that throws it away is on disk.
func TestTrashWaitsForTransaction(t *testing.T) {
	needRoot(t)
	s := open(t, t.TempDir())
	mounts, err := s.Prepare(ctx, "a", "")
	must(t, err)
	must(t, os.WriteFile(mounts[0].Source+"/f", nil, 0o600))
	step = func(name string) {
		if name == "remove: renamed" {
			must(t, s.trash.empty())
			if got, _ := filepath.Glob(s.dirs.trash() + "/1.*/fs/f"); len(got) != 1 {
				t.Errorf("deleted too early: %q", names(t, s.dirs.trash()))
			}
		}
	}
	defer func() { step = func(string) {} }()
	must(t, s.Remove(ctx, "a"))
	must(t, s.trash.empty())
	if got := names(t, s.dirs.trash()); len(got) != 0 {
		t.Errorf("in trash/: %q", got)
	}
}

// A tree that takes long to count is counted for a tenth of the time at most.
func TestUsageIsNotCountedAgain(t *testing.T) {
	c := newCounter()
	defer c.close()
	counted := int64(0)
	slow := func(context.Context) (snapshots.Usage, error) {
		counted++
		time.Sleep(4 * patience)
		return snapshots.Usage{Size: counted}, nil
	}
	for range 20 { // together they take less than leisure
		if u, err := c.ask(ctx, "1", slow); err != nil || u.Size != 1 {
			t.Fatalf("%v, %v", u, err)
		}
	}
	eventually(t, "it is counted again", func() bool {
		u, err := c.ask(ctx, "1", slow)
		return err == nil && u.Size == 2
	})
	c.forget("1")
	if u, err := c.ask(ctx, "1", slow); err != nil || u.Size < 3 {
		t.Errorf("after it was forgotten: %v, %v", u, err)
	}
}

// A file system with a journal is asked for no more than the layer; one without has to write all it has.
func TestHowToSync(t *testing.T) {
	for _, want := range []struct {
		fs   string
		sync syncMode
	}{
		{"ext4", syncJournal}, {"ext4 -O ^has_journal", syncWhole}, {"ext2", syncWhole}, {"xfs", syncJournal},
		{"btrfs", syncEach}, {"tmpfs", syncNone},
	} {
		t.Run(want.fs, func(t *testing.T) {
			dir := onFileSystem(t, want.fs)
			s := open(t, dir+"/root")
			defer func() { must(t, s.Close()) }()
			if s.features.sync != want.sync {
				t.Errorf("%d, want %d", s.features.sync, want.sync)
			}
			layerOf(t, s, "layer", "", "file", "text")
		})
	}
}
