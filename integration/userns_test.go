package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod with hostUsers: false. Its root is nobody on the host, its image is root's
// and its volumes are, too, and all of that by id-mapped mounts: not a file is
// chowned.
func TestUserNamespacePod(t *testing.T) {
	// For such a pod containerd replaces the handler's options by those of runc, and fails if it has
	// any: it cannot be told to pass over the limits that every pod has.
	needs(t, "cpu")
	for _, version := range []string{"2.2", "2.4"} { // 1.7 has no idea of mapped volumes
		t.Run(version, func(t *testing.T) {
			c := startCRI(t, version)
			const base, size = 200000, 65536
			ids := []*cri.IDMapping{{HostId: base, ContainerId: 0, Length: size}}
			volume := t.TempDir()
			must(t, os.WriteFile(filepath.Join(volume, "file"), []byte("of root\n"), 0o600))
			c.users = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
			c.mounts = []*cri.Mount{{ContainerPath: "/volume", HostPath: volume, UidMappings: ids, GidMappings: ids}}

			sandbox := c.runPod(t, "pod")
			one := c.create(t, sandbox, "one", "touch /volume/new; echo to stdout; echo to stderr >&2; sleep 1000")
			two := c.create(t, sandbox, "two", "sleep 1000")
			for _, id := range []string{one, two} {
				_, err := c.runtime.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: id})
				must(t, err)
			}
			for _, id := range []string{one, two} {
				if got := strings.Fields(c.exec(t, id, "cat", "/proc/self/uid_map")); strings.Join(got, " ") != "0 200000 65536" {
					t.Errorf("uid_map: %q", got)
				}
				if got := c.exec(t, id, "sh", "-c", "id -u; cat /volume/file; stat -c %u /bin/busybox"); got != "0\nof root\n0\n" {
					t.Errorf("in the container: %q", got)
				}
				if got := c.exec(t, id, "ip", "addr"); !strings.Contains(got, "10.88.0.") {
					t.Errorf("no network of the pod: %s", got)
				}
			}
			for _, name := range []string{"user", "net", "ipc"} {
				link := "/proc/self/ns/" + name
				if a, b := c.exec(t, one, "readlink", link), c.exec(t, two, "readlink", link); a != b {
					t.Errorf("namespace %s: %s and %s", name, a, b)
				}
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(volume, "new"), &st); err != nil || st.Uid != 0 {
				t.Errorf("what was made in the volume: %v, belongs to %d", err, st.Uid)
			}
			c.checkLog(t, "one")
			for _, id := range []string{one, two} {
				_, err := c.runtime.StopContainer(c.ctx, &cri.StopContainerRequest{ContainerId: id})
				must(t, err)
				_, err = c.runtime.RemoveContainer(c.ctx, &cri.RemoveContainerRequest{ContainerId: id})
				must(t, err)
			}
			c.removePod(t, sandbox)
			c.d.AssertClean()
		})
	}
}
