package snapshotter

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
)

// TestSuite is containerd's own, directly, and through the socket on each file system.
func TestSuite(t *testing.T) {
	needRoot(t)
	for _, fs := range []string{"here", "ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(fs, func(t *testing.T) {
			if fs != "here" {
				dir := onFileSystem(t, fs)
				// Where the suite makes its directories.
				old, had := os.LookupEnv("TMPDIR")
				must(t, os.Setenv("TMPDIR", dir))
				t.Cleanup(func() {
					_ = os.Unsetenv("TMPDIR")
					if had {
						_ = os.Setenv("TMPDIR", old)
					}
				})
			}
			// The suite's tests are parallel: each group ends within its own t.Run.
			// What the socket adds does not depend on the file system, so one time without is enough.
			if fs == "here" {
				t.Run("direct", func(t *testing.T) { testsuite.SnapshotterSuite(t, "overlayfs", direct) })
				return
			}
			t.Run("socket", func(t *testing.T) { testsuite.SnapshotterSuite(t, "overlayfs", throughSocket) })
		})
	}
}

func direct(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	c := DefaultConfig()
	c.Root, c.Log = root, slog.New(slog.DiscardHandler)
	s, err := Open(c)
	if err != nil {
		return nil, nil, err
	}
	return s, s.Close, nil
}

func throughSocket(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	s, closeLocal, err := direct(ctx, root)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "mini-socket-") // short, unix(7)
	if err != nil {
		return nil, nil, err
	}
	client, closeRemote, err := remote(s.(*Snapshotter), dir)
	if err != nil {
		return nil, nil, err
	}
	return client, func() error {
		if err := closeRemote(); err != nil {
			return err
		}
		return closeLocal()
	}, nil
}
