package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const mebi = 1 << 20

// onQuota mounts a file system with project quotas, or skips by name. MINI_TEST_IMAGES is a directory with
// images of file systems that are not to be had otherwise.
func onQuota(t testing.TB, name string) string {
	t.Helper()
	needRoot(t)
	image := filepath.Join(t.TempDir(), "image")
	mkfs := exec.Command("mkfs."+name, "-q", image)
	if name == "ext4" {
		_ = exec.Command("modprobe", "quota_v2").Run()
		mkfs = exec.Command("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", image)
	}
	if made := os.Getenv("MINI_TEST_IMAGES") + "/" + name; exists(made) {
		mkfs = exec.Command("cp", "--sparse=always", made, image)
	} else if mkfs.Err != nil {
		t.Skipf("%s: needs mkfs.%s", t.Name(), name)
	} else {
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, 320*mebi))
	}
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", name, "-o", "loop,prjquota", image, dir).CombinedOutput(); err != nil {
		t.Skipf("%s: this kernel has no project quotas on %s: %v: %s", t.Name(), name, err, out)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func maxSize(size int64) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotMaxSize: fmt.Sprint(size)})
}

// write writes up to n MiB as a container would, and gives how many there was room for.
func write(t *testing.T, s *Snapshotter, key, name string, n int) (written int, err error) {
	t.Helper()
	mounts, err := s.Mounts(ctx, key)
	must(t, err)
	must(t, mount.WithTempMount(ctx, mounts, func(root string) error {
		f, failed := os.OpenFile(root+"/"+name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if failed != nil {
			err = failed
			return nil
		}
		defer f.Close()
		for err = nil; written < n; written++ {
			if _, err = f.Write(make([]byte, mebi)); err != nil {
				break
			}
		}
		return nil
	}))
	return written, err
}

// A snapshot is held to its size: who writes beyond it is told so, and nobody else notices.
func TestGuestQuota(t *testing.T) {
	for _, name := range []string{"ext4", "xfs"} {
		t.Run(name, func(t *testing.T) {
			root := onQuota(t, name)
			s := open(t, root+"/root")
			if !s.Features().Quota {
				t.Fatal("it has project quotas, and that was not seen")
			}
			layerOf(t, s, "base", "", "f", "x")
			must(t, second(s.Prepare(ctx, "box", "base", maxSize(8*mebi))))
			must(t, second(s.Prepare(ctx, "neighbour", "base")))

			n, err := write(t, s, "box", "big", 16)
			if n < 6 || n > 8 || !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%d MiB of 8: %v", n, err)
			}
			t.Logf("%d MiB, then: %v", n, err)
			if _, err := write(t, s, "box", "f", 2); err == nil { // copied up: the work directory counts too
				t.Error("another file is not held to it")
			}
			if n, err := write(t, s, "neighbour", "big", 16); n != 16 || err != nil {
				t.Errorf("the neighbour: %d MiB, %v", n, err)
			}
			for key, want := range map[string]int64{"box": 8, "neighbour": 16} {
				u, err := s.Usage(ctx, key)
				if err != nil || u.Size < (want-2)*mebi || u.Size > (want+1)*mebi || u.Inodes < 3 {
					t.Errorf("%s takes %d bytes, %d inodes, %v", key, u.Size, u.Inodes, err)
				}
			}
			if n := len(s.counter.trees); n > 0 {
				t.Errorf("%d trees were counted, which the kernel counts by itself", n)
			}
			must(t, s.Close())

			s = open(t, root+"/root") // the limit outlives us
			if n, err := write(t, s, "box", "more", 4); err == nil {
				t.Errorf("after a restart: %d MiB more", n)
			}
			must(t, s.Commit(ctx, "layer", "box"))
			must(t, second(s.Prepare(ctx, "next", "layer")))
			if n, err := write(t, s, "next", "big", 2); n != 2 || err != nil {
				t.Errorf("on the layer: %d MiB, %v", n, err)
			}
			for _, key := range []string{"next", "layer", "neighbour"} {
				must(t, s.Remove(ctx, key))
			}
			for _, id := range []string{"2", "3", "4"} {
				eventually(t, "project "+id+" is forgotten", func() bool {
					project, err := s.quota.project(id)
					must(t, err)
					size, inodes, err := projectUsage(int(s.quota.root.Fd()), project)
					return err != nil || size == 0 && inodes == 0
				})
			}
		})
	}
}

// What the configuration says holds for containers, not for layers that are unpacked, and gives way to
// the label.
func TestGuestQuotaDefault(t *testing.T) {
	root := onQuota(t, "ext4")
	s := open(t, root+"/root", func(c *Config) { c.MaxSize = 4 * mebi })
	layerOf(t, s, "base", "", "f", "x")
	for _, test := range []struct {
		key  string
		opts []snapshots.Opt
		fits bool
	}{
		{"box", nil, false},
		{"larger", []snapshots.Opt{maxSize(20 * mebi)}, true},
		{"ns/1/extract-1-x sha256:aa", nil, true},
	} {
		must(t, second(s.Prepare(ctx, test.key, "base", test.opts...)))
		if n, err := write(t, s, test.key, "big", 8); test.fits != (err == nil) {
			t.Errorf("%s: %d MiB, %v", test.key, n, err)
		}
	}
}

// The limit of a directory without a record is not that of the next snapshot with its number.
func TestGuestQuotaOrphan(t *testing.T) {
	root := onQuota(t, "ext4")
	s := open(t, root+"/root")
	layerOf(t, s, "base", "", "f", "x")
	orphan := s.dirs.snapshot("2")
	must(t, os.Mkdir(orphan, 0o700))
	must(t, fill(orphan, true))
	must(t, s.quota.hold("2", orphan, mebi))
	must(t, s.Close())
	s = open(t, root+"/root")
	must(t, second(s.Prepare(ctx, "box", "base")))
	eventually(t, "the trash is empty", func() bool { return len(names(t, s.dirs.trash())) == 0 })
	if n, err := write(t, s, "box", "big", 4); err != nil {
		t.Errorf("%d MiB, %v", n, err)
	}
}

// A limit that cannot be held is refused, unless that is configured.
func TestQuotaIsRefused(t *testing.T) {
	root := onFileSystem(t, "tmpfs")
	s := open(t, root+"/a")
	if _, err := s.Prepare(ctx, "a", "", maxSize(mebi)); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
	for _, wrong := range []string{"-1", "0", "1G", "9223372036854775807"} {
		label := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotMaxSize: wrong})
		if _, err := s.Prepare(ctx, "a", "", label); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if got := names(t, s.dirs.snapshots()); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	c := s.Config
	c.Root, c.MaxSize = root+"/b", mebi
	if _, err := Open(c); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
	s = open(t, root+"/c", func(c *Config) { c.IgnoreQuota, c.MaxSize = true, mebi })
	must(t, second(s.Prepare(ctx, "a", "", maxSize(mebi))))
}
