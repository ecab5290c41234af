package container

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/program"
)

// TestMappedOverlay: the lower layers of an id-mapped overlay are shifted, what is
// written above them is not; both ways, of which the one of old kernels works on all.
func TestMappedOverlay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	a, err := agent.New()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ns := &maker{ctx: t.Context(), agent: a}
	defer ns.close()
	ids := &program.IDMaps{UIDs: []program.IDMap{{Outside: 1000, Size: 10}}, GIDs: []program.IDMap{{Outside: 2000, Size: 10}}}
	for name, mount := range map[string]func(Mount) (int, error){
		"as the kernel has it": func(m Mount) (int, error) { return openMappedOverlay(m, ids, ns) },
		"in one page": func(m Mount) (int, error) {
			in, err := openMappedLayers(m, ids, ns)
			if err != nil {
				return -1, err
			}
			defer in.close()
			return overlayInOnePage(m, in)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "1/fs/one"), "x")
			write(t, filepath.Join(dir, "2/fs/two"), "x")
			write(t, filepath.Join(dir, "3/fs/up"), "x")
			write(t, filepath.Join(dir, "3/work/.keep"), "x")
			if err := os.Remove(filepath.Join(dir, "3/work/.keep")); err != nil {
				t.Fatal(err)
			}
			fd, err := mount(Mount{Type: "overlay", Source: "overlay", Options: []string{
				"lowerdir=" + dir + "/1/fs:" + dir + "/2/fs", "upperdir=" + dir + "/3/fs", "workdir=" + dir + "/3/work",
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			for file, want := range map[string]uint32{"one": 1000, "two": 1000, "up": 0} {
				var st unix.Stat_t
				if err := unix.Fstatat(fd, file, &st, 0); err != nil || st.Uid != want || want != 0 && st.Gid != 2000 {
					t.Errorf("%s: %v, belongs to %d:%d, want %d", file, err, st.Uid, st.Gid, want)
				}
			}
		})
	}
}
