package integration

import (
	"os"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container in a user namespace sees the files of its image as root's, its own as its own; on disk
// those of the image are not touched, and the new ones belong to its root.
func TestSnapshotterRemapsIDs(t *testing.T) {
	versions(t, func(t *testing.T, version string) {
		d, s := withSnapshotter(t, version)
		d.Ctr("images", "import", "--snapshotter", "mini", archive(t))
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 300000, Size: 65536}}
		_, err := d.Client().SnapshotService("mini").Prepare(d.Context(), "box", topOf(t, d), forTest,
			containerd.WithUserNSRemapperLabels(ids, ids))
		must(t, err)
		defer func() { must(t, d.Client().SnapshotService("mini").Remove(d.Context(), "box")) }()
		status, out := onSnapshot(t, d, "box", "box", oci.WithUserNamespace(ids, ids),
			oci.WithProcessArgs("sh", "-c", "stat -c %u /bin/busybox && echo x >/new && stat -c %u /new && cat /proc/self/uid_map | tr -s ' '"))
		if want := "0\n0\n 0 300000 65536\n"; status != 0 || out != want {
			t.Errorf("status %d: %q, want %q", status, out, want)
		}
		owners := make(map[string]uint32)
		entries, err := os.ReadDir(s.config.Root + "/snapshots")
		must(t, err)
		for _, e := range entries {
			for _, file := range []string{"bin/busybox", "new"} {
				var st unix.Stat_t
				if unix.Lstat(s.config.Root+"/snapshots/"+e.Name()+"/fs/"+file, &st) == nil {
					owners[file] = st.Uid
				}
			}
		}
		if owners["bin/busybox"] != 0 || owners["new"] != 300000 || len(owners) != 2 {
			t.Errorf("owners on disk: %v", owners)
		}
	})
}
