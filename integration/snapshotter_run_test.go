package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// onSnapshot starts a container on a snapshot that is there, and waits for its end.
func onSnapshot(t *testing.T, d *daemon.Daemon, id, key string, opts ...oci.SpecOpts) (status uint32, output string) {
	t.Helper()
	ctx := d.Context()
	c, err := d.Client().NewContainer(ctx, id, containerd.WithSnapshotter("mini"), containerd.WithSnapshot(key),
		containerd.WithNewSpec(append([]oci.SpecOpts{oci.WithRootFSPath("rootfs")}, opts...)...), containerd.WithRuntime(daemon.Runtime(), nil))
	must(t, err)
	var out strings.Builder
	task, err := c.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, &out, &out)))
	must(t, err)
	done, err := task.Wait(ctx)
	must(t, err)
	must(t, task.Start(ctx))
	status = wait(t, done)
	_, err = task.Delete(ctx)
	must(t, err)
	must(t, c.Delete(ctx))
	return status, out.String()
}

var forTest = snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})

// A container of an image of 400 layers, which is more than a page of mount options holds.
func TestSnapshotterRunsManyLayers(t *testing.T) {
	if !mini() {
		t.Skip("for a runtime that passes each layer by itself")
	}
	d, _ := withSnapshotter(t, "2.4")
	d.Ctr("images", "import", "--snapshotter", "mini", archive(t))
	ctx, sn := d.Context(), d.Client().SnapshotService("mini")
	const layers = 400
	parent := topOf(t, d)
	for i := range layers {
		name := fmt.Sprintf("layer-%d", i)
		mounts, err := sn.Prepare(ctx, name+"-key", parent, forTest)
		must(t, err)
		must(t, os.WriteFile(upperOf(mounts[0].Options)+fmt.Sprintf("/f%d", i), []byte(name), 0o644))
		must(t, sn.Commit(ctx, name, name+"-key", forTest))
		parent = name
	}
	mounts, err := sn.Prepare(ctx, "box", parent, forTest)
	must(t, err)
	if n := len(strings.Join(mounts[0].Options, ",")); n < os.Getpagesize() {
		t.Errorf("the options take %d bytes: nothing is tested here", n)
	}
	status, out := onSnapshot(t, d, "box", "box",
		oci.WithProcessArgs("sh", "-c", "ls -d /f* | wc -l && cat /f0 /f399 && echo written >/f0 && cat /f0"))
	if status != 0 || out != "400\nlayer-0layer-399written\n" {
		t.Errorf("status %d: %q", status, out)
	}
	for i := layers; i >= 0; i-- {
		name := fmt.Sprintf("layer-%d", i)
		if i == layers {
			name = "box"
		}
		must(t, sn.Remove(ctx, name))
	}
}

// upperOf is the upper directory of an overlay.
func upperOf(options []string) string {
	for _, option := range options {
		if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
			return dir
		}
	}
	return ""
}

// A container that writes more than the label of its snapshot allows is told so by the kernel; its
// neighbour, on the same disk, is not.
func TestGuestSnapshotterQuota(t *testing.T) {
	s := newService(t)
	_ = exec.Command("modprobe", "quota_v2").Run()
	image, at := filepath.Join(t.TempDir(), "image"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 256<<20))
	for _, command := range []string{"mkfs.ext4 -q -O quota,project -E quotatype=prjquota " + image, "mount -o loop,prjquota " + image + " " + at} {
		words := strings.Fields(command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: this machine has no project quotas: %s: %v: %s", t.Name(), command, err, out)
		}
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
	s.config.Root = at + "/root"
	d := daemon.Start(t, daemon.Options{Version: "2.4", Config: s.dropIn("2.4")})
	s.daemon = d
	s.serve()
	t.Cleanup(func() { s.end(syscall.SIGTERM) })
	d.Ctr("images", "import", "--snapshotter", "mini", archive(t))
	ctx, sn := d.Context(), d.Client().SnapshotService("mini")
	limited := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test", snapshots.LabelSnapshotMaxSize: fmt.Sprint(8 << 20)})
	_, err := sn.Prepare(ctx, "box", topOf(t, d), limited)
	must(t, err)
	_, err = sn.Prepare(ctx, "neighbour", topOf(t, d), forTest)
	must(t, err)
	fill := oci.WithProcessArgs("dd", "if=/dev/zero", "of=/f", "bs=1M", "count=16")
	if status, out := onSnapshot(t, d, "box", "box", fill); status == 0 || !strings.Contains(out, "quota exceeded") && !strings.Contains(out, "No space left") {
		t.Errorf("status %d: %s", status, out)
	}
	if status, out := onSnapshot(t, d, "neighbour", "neighbour", fill); status != 0 {
		t.Errorf("the neighbour: status %d: %s", status, out)
	}
	for key, most := range map[string]int64{"box": 8 << 20, "neighbour": 17 << 20} {
		if u, err := sn.Usage(ctx, key); err != nil || u.Size > most || u.Size < most-(3<<20) {
			t.Errorf("%s takes %d bytes, %v", key, u.Size, err)
		}
		must(t, sn.Remove(ctx, key))
	}
}

// The units as they are installed: the socket is there before the service, the service before
// containerd; a service that is killed comes back, and who asks meanwhile waits.
func TestSystemdSnapshotter(t *testing.T) {
	needsSystemd(t)
	if name, _ := os.Hostname(); name != "guest" {
		t.Skipf("%s: installs units: for the guest of hack/vm alone", t.Name())
	}
	s := newService(t)
	s.config.Root, s.config.Address = "/var/lib/mini-snapshotter", "/run/mini-snapshotter/mini.sock"
	binary, err := os.ReadFile(s.binary)
	must(t, err)
	must(t, os.WriteFile("/usr/local/bin/mini-snapshotter", binary, 0o755))
	units := []string{"mini-snapshotter.socket", "mini-snapshotter.service"}
	for _, unit := range units {
		text, err := os.ReadFile("../hack/systemd/" + unit)
		must(t, err)
		must(t, os.WriteFile("/etc/systemd/system/"+unit, text, 0o644))
	}
	// It is a containerd.service for what it says of order; the real one is the daemon below.
	must(t, os.WriteFile("/etc/systemd/system/containerd.service", []byte("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"), 0o644))
	// Both are started by one transaction, as at boot: only then order means something, systemd.unit(5).
	must(t, os.WriteFile("/etc/systemd/system/both.target", []byte("[Unit]\nWants=containerd.service mini-snapshotter.service\nAfter=containerd.service\n"), 0o644))
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		systemctl(t, "stop", "containerd.service", "mini-snapshotter.service", "mini-snapshotter.socket")
	})
	systemctl(t, "start", "both.target")

	property := func(unit, name string) string {
		return strings.TrimSpace(systemctl(t, "show", "--value", "-p", name, unit))
	}
	if got := property("mini-snapshotter.service", "ActiveState") + " " + property("mini-snapshotter.service", "Type"); got != "active notify" {
		t.Fatalf("the service: %s", got)
	}
	ready, later := property("mini-snapshotter.service", "ActiveEnterTimestampMonotonic"), property("containerd.service", "ExecMainStartTimestampMonotonic")
	if len(ready) > len(later) || len(ready) == len(later) && ready > later {
		t.Errorf("ready at %s us, containerd started at %s us", ready, later)
	}
	if info, err := os.Stat(s.config.Address); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	d := daemon.Start(t, daemon.Options{Version: "2.4", Config: s.dropIn("2.4")})
	d.Ctr("images", "import", "--snapshotter", "mini", archive(t))
	for _, how := range [][]string{
		{"kill", "-s", "KILL", "mini-snapshotter.service"},
		{"restart", "mini-snapshotter.service"},
		{"stop", "mini-snapshotter.service"}, // the socket starts it when somebody asks
	} {
		before := property("mini-snapshotter.service", "MainPID")
		systemctl(t, how...)
		// containerd gives a connection a second or so to be answered: a start takes longer in a slow guest.
		answers := func() bool {
			answered := snapshotterAnswers(t, d)
			pid := property("mini-snapshotter.service", "MainPID")
			return answered && pid != before && pid != "0"
		}
		for deadline := time.Now().Add(time.Minute); !answers(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after %s nobody answers", how[0])
			}
		}
		if got := ctrRun(d, "box", "echo", "there"); got != "there\n" {
			t.Errorf("after %s: %q", how[0], got)
		}
	}
}
