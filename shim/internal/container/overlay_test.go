package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOverlay mounts many layers with long names, in all ways; the one of the oldest
// kernels works on all.
func TestOverlay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	for name, mount := range map[string]func(Mount) (int, error){
		"as the kernel has it": func(m Mount) (int, error) { return openOverlay(m, nil) },
		"each as it is":        func(m Mount) (int, error) { return overlay(m, nil) },
		"in one page":          func(m Mount) (int, error) { return overlayInOnePage(m, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
			var lowers []string
			const layers = 300
			for i := range layers {
				layer := filepath.Join(dir, fmt.Sprintf("a:b,%d", i))
				write(t, filepath.Join(layer, fmt.Sprint(i)), "x")
				write(t, filepath.Join(layer, "all"), fmt.Sprint(i))
				lowers = append(lowers, strings.ReplaceAll(layer, ":", `\:`))
			}
			for _, sub := range []string{"upper", "work"} {
				if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			fd, err := mount(Mount{Type: "overlay", Source: "overlay", Options: []string{
				"index=off", "workdir=" + dir + "/work", "upperdir=" + dir + "/upper", "lowerdir=" + strings.Join(lowers, ":"),
			}})
			if errors.Is(err, errOnePage) {
				t.Skip("needs Linux 6.8: layers by fsconfig(2)")
			}
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			dot, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			root := os.NewFile(uintptr(dot), "root")
			defer root.Close()
			names, err := root.Readdirnames(-1)
			if err != nil || len(names) != layers+1 {
				t.Errorf("%d names, %v", len(names), err)
			}
			f, err := unix.Openat(fd, "all", unix.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(f)
			var data [8]byte
			if n, err := unix.Read(f, data[:]); err != nil || string(data[:n]) != "0" {
				t.Errorf("%q, %v", data[:n], err)
			}
			if _, err := os.Stat(dir + "/upper/all"); err != nil {
				t.Error(err)
			}
			if data, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(data), dir) {
				t.Errorf("the host sees it, or %v", err)
			}
			if wd, err := os.Getwd(); err != nil || strings.Contains(wd, "/proc") {
				t.Errorf("working directory %s, %v", wd, err)
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLayerIsMount: snapshotters that fetch files when they are read mount each layer. It is not what it covers.
func TestLayerIsMount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	for _, layer := range []string{"1", "2", "3"} {
		write(t, filepath.Join(dir, layer, "fs/name"), layer)
	}
	mounted := filepath.Join(dir, "2/fs")
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(mounted, 0); err != nil {
			t.Error(err)
		}
	}()
	write(t, filepath.Join(mounted, "name"), "mounted")
	m := Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + mounted + ":" + dir + "/1/fs:" + dir + "/3/fs",
	}}
	fd, err := openOverlay(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	f, err := unix.Openat(fd, "name", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(f)
	var data [16]byte
	if n, err := unix.Read(f, data[:]); err != nil || string(data[:n]) != "mounted" {
		t.Errorf("%q, %v", data[:n], err)
	}

	// Id-mapped, it has to be in the clone.
	in, err := openLayerDir(commonDir(lowerLayers(m)))
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	if fd, err := in.open(mounted); !errors.Is(err, unix.EXDEV) {
		t.Errorf("opened as %d, %v", fd, err)
	}
	if fd, err := overlayInOnePage(m, in); !errors.Is(err, unix.EXDEV) {
		t.Errorf("mounted as %d, %v", fd, err)
	}
}
