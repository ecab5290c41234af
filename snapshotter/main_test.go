package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const envInside = "MINI_TEST_INSIDE"

// TestMain runs the tests in a mount namespace of their own, so that no mount can be left behind.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(envInside) != "" {
		if len(os.Args) > 1 && helpers[os.Args[1]] != nil {
			helpers[os.Args[1]](os.Args[2:])
			os.Exit(0)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helpers are what the test binary can be beside a test.
var helpers = map[string]func(args []string){}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// at is the default configuration of a root.
func at(root string) Config {
	c := DefaultConfig()
	c.Root, c.Log = root, slog.New(slog.DiscardHandler)
	return c
}

func open(t testing.TB, root string, change ...func(*Config)) *Snapshotter {
	t.Helper()
	c := at(root)
	for _, f := range change {
		f(&c)
	}
	s, err := Open(c)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// remote is the snapshotter as containerd sees it, through a socket.
func remote(s *Snapshotter, dir string) (snapshots.Snapshotter, func() error, error) {
	client, end, err := serve(NewServer(s), filepath.Join(dir, "s.sock"))
	return client, func() error { return errors.Join(end(), os.RemoveAll(dir)) }, err
}

// serve serves on a socket and gives a client of it.
func serve(server *grpc.Server, socket string) (snapshots.Snapshotter, func() error, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	go func() { _ = server.Serve(l) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "mini")
	return client, func() error { server.Stop(); return conn.Close() }, nil
}

// onFileSystem mounts a new file system and gives its directory, or skips by name. Options of its mkfs may
// follow the name.
func onFileSystem(t testing.TB, name string) string {
	t.Helper()
	needRoot(t)
	options := strings.Fields(name)[1:]
	name = strings.Fields(name)[0]
	dir := t.TempDir()
	if name == "tmpfs" {
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
		t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
		return dir
	}
	mkfs, err := exec.LookPath("mkfs." + name)
	if err != nil {
		t.Skipf("needs mkfs.%s", name)
	}
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 1<<30))
	if out, err := exec.Command(mkfs, append(options, "-q", image)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("needs loop devices and %s: %v: %s", name, err, out)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}

// names lists a directory.
func names(t testing.TB, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

var ctx = context.Background()
