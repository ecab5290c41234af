package integration

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/containerd-mini/mini/integration/internal/daemon"
	"github.com/containerd-mini/mini/snapshotter"
)

// A service is a mini-snapshotter that can be killed and come back.
type service struct {
	t      *testing.T
	binary string
	config snapshotter.Config
	cmd    *exec.Cmd
	daemon *daemon.Daemon // that uses it, once it does
}

func newService(t *testing.T) *service {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "mini-sn-") // short: socket paths end at 108 bytes, unix(7)
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	s := &service{t: t, binary: dir + "/mini-snapshotter", config: snapshotter.DefaultConfig()}
	s.config.Root, s.config.Address = dir+"/root", dir+"/run/s.sock"
	if built := os.Getenv("MINI_TEST_SNAPSHOTTER"); built != "" {
		s.binary = built
		return s
	}
	build := exec.Command("go", "build", "-o", s.binary, "../cmd/mini-snapshotter")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return s
}

// serve starts it and waits until it listens.
func (s *service) serve() {
	s.t.Helper()
	s.cmd = exec.Command(s.binary, "--root", s.config.Root, "--address", s.config.Address, "--log-level", "warn")
	s.cmd.Stderr = os.Stderr
	must(s.t, s.cmd.Start())
	eventually(s.t, "the snapshotter listens", func() bool {
		_, err := os.Stat(s.config.Address)
		return err == nil
	})
	if s.daemon == nil {
		return
	}
	// After a failed attempt to connect containerd waits up to 3 s before the next, and meanwhile says
	// "unavailable" by itself. Under socket activation there is no failed attempt.
	eventually(s.t, "containerd connects again", func() bool { return snapshotterAnswers(s.t, s.daemon) })
}

// snapshotterAnswers tells whether a request goes through containerd to the snapshotter and back. What containerd
// has not in its own database it does not ask for: only a new snapshot surely goes all the way.
func snapshotterAnswers(t *testing.T, d *daemon.Daemon) bool {
	t.Helper()
	sn := d.Client().SnapshotService("mini")
	if _, err := sn.View(d.Context(), "connected", "", forTest); err != nil {
		return false
	}
	must(t, sn.Remove(d.Context(), "connected"))
	return true
}

func (s *service) end(signal syscall.Signal) {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	must(s.t, s.cmd.Process.Signal(signal))
	err := s.cmd.Wait()
	if signal == syscall.SIGTERM && err != nil {
		s.t.Errorf("mini-snapshotter: %v", err)
	}
	if signal == syscall.SIGKILL {
		_ = os.Remove(s.config.Address) // so that serve sees the next one's
	}
	s.cmd = nil
}

// dropIn is what an operator would import into config.toml.
func (s *service) dropIn(version string) string {
	s.t.Helper()
	n := map[string]int{"1.7": 2, "2.2": 3, "2.4": 3}[version]
	text, err := snapshotter.ConfigContainerd(n, s.config)
	must(s.t, err)
	return strings.Replace(text, fmt.Sprintf("version = %d\n", n), "", 1) // the harness's own file says it
}

// withSnapshotter starts containerd and then the snapshotter, which is the order that needs patience.
func withSnapshotter(t *testing.T, version string) (*daemon.Daemon, *service) {
	t.Helper()
	s := newService(t)
	d := daemon.Start(t, daemon.Options{Version: version, Config: s.dropIn(version)})
	s.daemon = d
	s.serve()
	t.Cleanup(func() { s.end(syscall.SIGTERM) })
	return d, s
}

func archive(t *testing.T) string {
	t.Helper()
	path, err := daemon.Archive(daemon.Busybox)
	must(t, err)
	return path
}

// ctrRun runs a container on the snapshotter.
func ctrRun(d *daemon.Daemon, id string, args ...string) string {
	run := []string{"run", "--rm", "--snapshotter", "mini", "--runtime", daemon.Runtime()}
	if !mini() && !hasController("cpu") {
		run = append(run, "--cpu-shares", "0")
	}
	return d.Ctr(append(append(run, daemon.Busybox, id), args...)...)
}

// An image is unpacked, run, changed and committed, and a snapshotter that ends and comes back is not noticed.
func TestSnapshotterServesContainerd(t *testing.T) {
	versions(t, func(t *testing.T, version string) {
		d, s := withSnapshotter(t, version)
		d.Ctr("images", "import", "--snapshotter", "mini", archive(t))
		if got := ctrRun(d, "first", "sh", "-c", "echo hello > /f && cat /f"); got != "hello\n" {
			t.Errorf("%q", got)
		}
		s.end(syscall.SIGTERM)
		s.serve()
		if got := ctrRun(d, "second", "sh", "-c", "ls /f 2>/dev/null; echo again"); got != "again\n" {
			t.Errorf("after a restart: %q", got)
		}
		s.end(syscall.SIGKILL)
		s.serve()
		commitAndDiff(t, d)
		d.Restart()
		if got := ctrRun(d, "third", "echo", "still"); got != "still\n" {
			t.Errorf("after a restart of containerd: %q", got)
		}
		d.Ctr("images", "remove", "--sync", daemon.Busybox)
		eventually(t, "all is deleted", func() bool {
			left, _ := filepath.Glob(s.config.Root + "/[st][nr]a*/*")
			return len(left) == 0
		})
	})
}

// commitAndDiff changes a snapshot of the image, looks at the change as a layer, and commits it.
func commitAndDiff(t *testing.T, d *daemon.Daemon) {
	t.Helper()
	ctx, sn := d.Context(), d.Client().SnapshotService("mini")
	keep := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})
	_, err := sn.Prepare(ctx, "work", topOf(t, d), keep)
	must(t, err)
	change(t, d, "work", func(root string) { must(t, os.WriteFile(root+"/new", []byte("new"), 0o644)) })
	packed, err := gzip.NewReader(strings.NewReader(d.Ctr("snapshots", "--snapshotter", "mini", "diff", "work")))
	must(t, err)
	if text, err := io.ReadAll(packed); err != nil || !strings.HasPrefix(string(text), "new\x00") {
		t.Errorf("the diff: %v: %.20q", err, text)
	}
	must(t, sn.Commit(ctx, "committed", "work", keep))
	_, err = sn.View(ctx, "look", "committed", keep)
	must(t, err)
	change(t, d, "look", func(root string) {
		if text, err := os.ReadFile(root + "/new"); err != nil || string(text) != "new" {
			t.Errorf("%q, %v", text, err)
		}
	})
	must(t, sn.Remove(ctx, "look"))
	must(t, sn.Remove(ctx, "committed"))
}

// topOf is the snapshot of the busybox image.
func topOf(t *testing.T, d *daemon.Daemon) string {
	t.Helper()
	image, err := d.Client().GetImage(d.Context(), daemon.Busybox)
	must(t, err)
	diffs, err := image.RootFS(d.Context())
	must(t, err)
	return chainID(diffs)
}

// change mounts a snapshot as a client of containerd does.
func change(t *testing.T, d *daemon.Daemon, key string, f func(root string)) {
	t.Helper()
	mounts, err := d.Client().SnapshotService("mini").Mounts(d.Context(), key)
	must(t, err)
	if len(mounts) != 1 {
		t.Errorf("%d mounts", len(mounts))
	}
	must(t, mount.WithTempMount(d.Context(), mounts, func(root string) error { f(root); return nil }))
}

// The same image, unpacked by mini, layers at a time where containerd can, and by containerd's own
// snapshotter one after the other, is the same tree.
func TestSnapshotterUnpacksWhiteouts(t *testing.T) {
	versions(t, func(t *testing.T, version string) {
		d, _ := withSnapshotter(t, version)
		path := whiteoutImage(t, "base")
		d.Ctr("images", "import", "--snapshotter", "overlayfs", path)
		want := tree(t, d, "overlayfs")
		// Only a pull unpacks layers at a time.
		d.Ctr("images", "pull", "--plain-http", "--snapshotter", "mini", registry(t, path))
		got := tree(t, d, "mini")
		if got != want {
			t.Errorf("have\n%s\nwant\n%s", got, want)
		}
		for _, gone := range []string{"a/z", "c ", "b/1", "d/e/f"} {
			if strings.Contains(got, gone) {
				t.Errorf("%q is there:\n%s", gone, got)
			}
		}
		log, err := os.ReadFile(d.Dir + "/log")
		must(t, err)
		if version != "1.7" && !strings.Contains(string(log), "parallel=true") {
			t.Error("containerd did not unpack layers at a time")
		}
	})
}

// Two images that differ in their lowest layer have no snapshot in common. The files of the other
// layers are stored once all the same, and outlive the image they came with.
func TestSnapshotterStoresLayersOnce(t *testing.T) {
	d, s := withSnapshotter(t, "2.4")
	one, two := registry(t, whiteoutImage(t, "one")), whiteoutImage(t, "two")
	d.Ctr("images", "import", "--snapshotter", "overlayfs", two)
	want := tree(t, d, "overlayfs")
	d.Ctr("images", "pull", "--plain-http", "--snapshotter", "mini", one)
	d.Ctr("images", "pull", "--plain-http", "--snapshotter", "mini", registry(t, two))
	check := func() {
		t.Helper()
		if got := tree(t, d, "mini"); got != want {
			t.Errorf("have\n%s\nwant\n%s", got, want)
		}
	}
	check()
	links := 0
	entries, err := os.ReadDir(s.config.Root + "/snapshots")
	must(t, err)
	for _, e := range entries {
		if e.Type() == fs.ModeSymlink {
			links++
		}
	}
	if links != len(whiteoutLayers)-1 {
		t.Errorf("%d layers are shared, of %d", links, len(whiteoutLayers))
	}
	d.Ctr("images", "remove", "--sync", one)
	s.end(syscall.SIGKILL)
	s.serve()
	check()
}

// The snapshotter is killed while an image is unpacked. The next try succeeds, and the tree is whole.
func TestSnapshotterIsKilledInUnpack(t *testing.T) {
	d, s := withSnapshotter(t, "2.4")
	path := whiteoutImage(t, "killed")
	d.Ctr("images", "import", "--snapshotter", "overlayfs", path)
	want := tree(t, d, "overlayfs")
	killed := 0
	for i := range 12 {
		cmd := d.CtrCommand("images", "import", "--snapshotter", "mini", path)
		must(t, cmd.Start())
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		s.end(syscall.SIGKILL)
		s.serve()
		if cmd.Wait() != nil {
			killed++
		}
		if i%3 == 2 { // whole, or taken away whole
			d.Ctr("images", "import", "--snapshotter", "mini", path)
			if got := tree(t, d, "mini"); got != want {
				t.Fatalf("have\n%s\nwant\n%s", got, want)
			}
			d.Ctr("images", "remove", "--sync", imageName)
			d.Ctr("images", "import", "--snapshotter", "overlayfs", path)
		}
	}
	t.Logf("%d imports of 12 failed", killed)
}

// tree lists what a container of the image of whiteoutImage would see.
func tree(t *testing.T, d *daemon.Daemon, name string) string {
	t.Helper()
	image, err := d.Client().GetImage(d.Context(), imageName)
	must(t, err)
	diffs, err := image.RootFS(d.Context())
	must(t, err)
	sn := d.Client().SnapshotService(name)
	keep := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})
	mounts, err := sn.View(d.Context(), "tree", chainID(diffs), keep)
	must(t, err)
	defer func() { must(t, sn.Remove(d.Context(), "tree")) }()
	var all strings.Builder
	must(t, mount.WithTempMount(d.Context(), mounts, func(root string) error {
		return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // overlay lists a whiteout of nothing, in a directory of one layer
			}
			if err != nil {
				return err
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			text := ""
			if info.Mode().IsRegular() {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text = string(data)
			}
			name, _ := filepath.Rel(root, path)
			_, err = fmt.Fprintf(&all, "%s %s %q\n", name, info.Mode(), text)
			return err
		})
	}))
	return all.String()
}
