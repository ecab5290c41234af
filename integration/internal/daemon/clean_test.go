package daemon

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m) }

// A check that finds nothing proves nothing until it has been seen to find something.
func TestLeftoversAreFound(t *testing.T) {
	need(t)
	d := &Daemon{server: &server{Dir: t.TempDir()}, t: t, Namespace: filepath.Base(os.Getenv(envBase)) + "-leak"}
	d.before = d.leftovers("")
	if left := d.left(); len(left) > 0 {
		t.Fatalf("at the beginning: %q", left)
	}

	// A process that has cut itself loose, as a shim does.
	if err := exec.Command("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &").Run(); err != nil {
		t.Fatal(err)
	}
	mountpoint := t.TempDir()
	if err := unix.Mount("tmpfs", mountpoint, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	cgroup := filepath.Join(cgroupRoot, d.Namespace, "container")
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: runDirs[1] + "/leak.sock"})
	if err != nil {
		t.Fatal(err)
	}
	socket.SetUnlinkOnClose(false)
	socket.Close() // what a killed process leaves
	bundle := filepath.Join(d.Dir, "state", "io.containerd.runtime.v2.task", d.Namespace, "box")
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		t.Fatal(err)
	}

	all := strings.Join(d.left(), "\n")
	// setsid is to become sleep first.
	for deadline := time.Now().Add(patience); !strings.Contains(all, "sleep") && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		all = strings.Join(d.left(), "\n")
	}
	for _, want := range []string{"sleep", "mount " + mountpoint, "cgroup " + cgroup, "leak.sock", "bundle " + bundle} {
		if !strings.Contains(all, want) {
			t.Errorf("not found: %s\nin:\n%s", want, all)
		}
	}

	if err := os.RemoveAll(d.Dir + "/state"); err != nil {
		t.Fatal(err)
	}
	d.sweep()
	if left := d.left(); len(left) > 0 {
		t.Errorf("not swept: %q", left)
	}
	if err := syscall.Rmdir(filepath.Dir(cgroup)); err != nil {
		t.Error(err)
	}
}
