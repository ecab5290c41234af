package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A deed is one request of a life. Done again it succeeds, or says that it is done.
type deed struct {
	name string
	do   func(s *Snapshotter) error
}

func prepare(key, parent string, labels map[string]string) deed {
	return deed{"prepare " + key, func(s *Snapshotter) error {
		mounts, err := s.Prepare(ctx, key, parent, snapshots.WithLabels(labels))
		if err != nil {
			return err
		}
		if mounts[0].ReadOnly() {
			return nil // staged
		}
		return mount.WithTempMount(ctx, mounts, func(root string) error {
			if err := os.MkdirAll(root+"/dir", 0o755); err != nil {
				return err
			}
			return os.WriteFile(root+"/dir/"+filepath.Base(parent)+"-file", []byte("whole"), 0o644)
		})
	}}
}

func commit(name, key string, opts ...snapshots.Opt) deed {
	return deed{"commit " + name, func(s *Snapshotter) error { return s.Commit(ctx, name, key, opts...) }}
}

func view(key, parent string) deed {
	return deed{"view " + key, func(s *Snapshotter) error { return second(s.View(ctx, key, parent)) }}
}

func remove(key string) deed {
	return deed{"remove " + key, func(s *Snapshotter) error { return s.Remove(ctx, key) }}
}

// life is what the snapshotter is killed in, at every step.
func life() []deed {
	deeds := []deed{
		prepare("base-key", "", nil), commit("base", "base-key"),
		prepare("box", "base", nil), view("look", "base"), view("bare", ""),
		remove("bare"), remove("look"), commit("second", "box"), prepare("gone", "second", nil), remove("gone"),
	}
	return append(deeds, sharedLife()...)
}

// limitedLife has snapshots that are held to a size.
func limitedLife() []deed {
	limit := map[string]string{snapshots.LabelSnapshotMaxSize: fmt.Sprint(8 * mebi)}
	return []deed{
		prepare("box", "", limit), commit("base", "box"), prepare("gone", "base", limit), remove("gone"), prepare("last", "base", limit),
	}
}

var lives = map[string]func() []deed{"life": life, "limited": limitedLife}

func init() {
	// crash ROOT N LIFE: live, and be killed at step N.
	helpers["crash"] = func(args []string) {
		at, err := strconv.Atoi(args[1])
		if err != nil {
			panic(err)
		}
		c := DefaultConfig()
		c.Root = args[0]
		s, err := Open(c)
		if err != nil {
			panic(err)
		}
		n := 0
		step = func(name string) {
			n++
			if n == at {
				fmt.Println("killed:", name)
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		for i, d := range lives[args[2]]() {
			if err := d.do(s); err != nil {
				panic(fmt.Sprint(d.name, ": ", err))
			}
			fmt.Println("done:", i)
		}
		fmt.Println("steps:", n)
	}
}

// live runs the helper and gives the number of deeds that were answered, and where it was killed.
func live(t *testing.T, root string, at int, life string) (done int, where string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "crash", root, strconv.Itoa(at), life)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		t.Fatalf("%v\n%s%s", err, out, stderr.Bytes())
	}
	for line := range strings.Lines(string(out)) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch kind {
		case "done":
			done++
		default:
			where = kind + " " + rest
		}
	}
	return done, where
}

// The snapshotter is killed at every step of a life. Each time the next start finds all that was
// answered, nothing that is half there, and can go on.
func TestCrash(t *testing.T) {
	needRoot(t)
	crashes(t, "life", t.TempDir())
}

// The same where snapshots are held to a size: no limit is lost, and none is left.
func TestGuestCrashQuota(t *testing.T) {
	for _, name := range []string{"ext4", "xfs"} {
		t.Run(name, func(t *testing.T) { crashes(t, "limited", onQuota(t, name)) })
	}
}

// crashes lives in dir, again and again, each time up to the next step.
func crashes(t *testing.T, life, dir string) {
	for at := 1; ; at++ {
		root := fmt.Sprintf("%s/%d", dir, at)
		done, where := live(t, root, at, life)
		if strings.HasPrefix(where, "steps") {
			t.Logf("killed at %d steps", at-1)
			break
		}
		t.Run(fmt.Sprintf("%d %s", at, where), func(t *testing.T) { goOn(t, root, lives[life]()[done:]) })
		if t.Failed() {
			break
		}
		must(t, os.RemoveAll(root))
	}
}

// goOn starts the snapshotter after a crash and lives the rest of the life.
func goOn(t *testing.T, root string, rest []deed) {
	if _, err := Fsck(at(root), false); err != nil {
		t.Errorf("fsck: %v", err)
	}
	s := open(t, root)
	wholeness(t, s)
	for i, d := range rest {
		err := d.do(s)
		// The one that was cut short may have happened, unanswered. A key that nobody knows is
		// collected as garbage.
		key, prepares := strings.CutPrefix(d.name, "prepare ")
		switch {
		case i > 0:
		case errdefs.IsAlreadyExists(err) && prepares:
			must(t, s.Remove(ctx, key))
			err = d.do(s)
		case errdefs.IsAlreadyExists(err) || errdefs.IsNotFound(err):
			err = nil
		}
		if err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		wholeness(t, s)
	}
	eventually(t, "the trash is empty", func() bool { return len(names(t, s.dirs.trash())) == 0 })
	limits(t, s)
	for n := range 20 { // the next root's snapshots have the same numbers, and so the same projects
		must(t, s.quota.free(strconv.Itoa(n+1)))
	}
	must(t, s.Close())
	if found, err := Fsck(at(root), false); err != nil || len(found) > 0 {
		t.Errorf("fsck: %q, %v", found, err)
	}
}

// limits compares records and limits. Files that are deleted count until the kernel has buried them, and the
// limit goes after them.
func limits(t *testing.T, s *Snapshotter) {
	t.Helper()
	inv, err := takeStock(s.dirs, s.store)
	must(t, err)
	for n := 1; n <= 20 && s.quota != nil; n++ {
		id := strconv.Itoa(n)
		info, recorded := inv.records[id]
		want, err := s.limit(info)
		must(t, err)
		if recorded && info.Kind == snapshots.KindCommitted {
			continue // nobody writes to it; its limit goes when it goes
		}
		project, err := s.quota.project(id)
		must(t, err)
		eventually(t, fmt.Sprintf("snapshot %s %q is held to %d, what has no record takes nothing", id, info.Name, want), func() bool {
			got, err := projectRecord(int(s.quota.root.Fd()), project)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				t.Fatal(err)
			}
			return int64(got.hard)*quotaBlock == want && (recorded || got.space+got.inodes == 0)
		})
	}
}

// wholeness compares records and files.
func wholeness(t *testing.T, s *Snapshotter) {
	t.Helper()
	inv, err := takeStock(s.dirs, s.store)
	must(t, err)
	if found, broken := check(s.dirs, inv); len(found) > 0 || len(broken) > 0 {
		t.Errorf("%q", found)
	}
	for id, info := range inv.records {
		if info.Kind != snapshots.KindCommitted {
			continue
		}
		files, err := filepath.Glob(s.dirs.fs(id) + "/dir/*-file")
		must(t, err)
		if len(files) != 1 {
			t.Errorf("%s: %q", info.Name, files)
			continue
		}
		if text, err := os.ReadFile(files[0]); err != nil || string(text) != "whole" {
			t.Errorf("%s: %q, %v", info.Name, text, err)
		}
	}
}

func TestFsckMends(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s := open(t, root)
	layerOf(t, s, "base", "", "f", "x")
	layerOf(t, s, "middle", "base", "g", "x")
	must(t, second(s.Prepare(ctx, "top", "middle")))
	layerOf(t, s, "other", "", "f", "x")
	layerOf(t, s, "worn", "", "f", "x")
	must(t, second(s.Prepare(ctx, "on-worn", "worn")))
	must(t, s.Close())
	must(t, os.RemoveAll(s.dirs.snapshot("2")))
	must(t, os.MkdirAll(s.dirs.fs("77"), 0o700))
	must(t, os.Remove(s.dirs.layer("4"))) // as a power cut may leave it
	must(t, os.Remove(s.dirs.layer("5"))) // this cannot happen

	want := []string{
		"middle: its files are gone (snapshots/2)",
		"other: its Commit was cut short (snapshots/4)",
		"snapshots/77: belongs to no record",
		"top: stands on middle",
		"worn: committed, but not known to be on disk (snapshots/5)",
	}
	for _, repair := range []bool{false, true} {
		found, err := Fsck(at(root), repair)
		if err != nil || !slices.Equal(found, want) {
			t.Errorf("repair %v: %q, %v", repair, found, err)
		}
	}
	found, err := Fsck(at(root), false)
	if err != nil || !slices.Equal(found, want[len(want)-1:]) {
		t.Errorf("mended: %q, %v", found, err)
	}
	s = open(t, root)
	layerOf(t, s, "middle", "base", "g", "x")
	layerOf(t, s, "other", "", "f", "x")
}

// What bolt cannot read nobody mends: fsck says so, and leaves it as it is.
func TestFsckOfDamagedStore(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s := open(t, root)
	layerOf(t, s, "layer", "", "f", "x")
	must(t, s.Close())
	text, err := os.ReadFile(s.dirs.metadata())
	must(t, err)
	// The pages behind the first four are reachable, or free, and neither any more.
	for page := 4 * os.Getpagesize(); page < len(text); page += os.Getpagesize() {
		clear(text[page : page+16]) // bbolt's page header
	}
	must(t, os.WriteFile(s.dirs.metadata(), text, 0o600))
	for _, repair := range []bool{false, true} {
		found, err := Fsck(at(root), repair)
		if err == nil || !strings.Contains(err.Error(), "is damaged, which is not mended") || len(found) == 0 {
			t.Errorf("repair %v: %q, %v", repair, found, err)
		}
	}
	if after, err := os.ReadFile(s.dirs.metadata()); err != nil || !bytes.Equal(after, text) {
		t.Errorf("it was written to: %v", err)
	}
}

func TestFsckOfUsedRoot(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	open(t, root)
	if _, err := Fsck(at(root), true); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
}
