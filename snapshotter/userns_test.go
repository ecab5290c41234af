package snapshotter

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

func init() {
	// userns ROOT: in a user namespace, unpack, delete, and look at what is left.
	helpers["userns"] = func(args []string) {
		if err := liveInUserNS(args[0]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func liveInUserNS(root string) error {
	c := DefaultConfig()
	c.Root = root
	s, err := Open(c)
	if err != nil {
		return err
	}
	defer s.Close()
	if f := s.Features(); !f.UserNS || len(f.Capabilities()) > 0 {
		return fmt.Errorf("features: %+v, capabilities %q", f, f.Capabilities())
	}
	parent := ""
	for i, change := range []func(at string) error{
		func(at string) error {
			return os.MkdirAll(at+"/a/b", 0o755)
		},
		func(at string) error {
			return os.WriteFile(at+"/a/f", []byte("first"), 0o600)
		},
		func(at string) error { // a whiteout, an opaque directory
			if err := os.Remove(at + "/a/f"); err != nil {
				return err
			}
			if err := os.Remove(at + "/a/b"); err != nil {
				return err
			}
			return os.Mkdir(at+"/a/b", 0o700)
		},
	} {
		key, name := fmt.Sprint("key-", i), fmt.Sprint("layer-", i)
		mounts, err := s.Prepare(ctx, key, parent)
		if err != nil {
			return err
		}
		if i == 2 && !slices.Contains(mounts[0].Options, "userxattr") {
			return fmt.Errorf("options: %q", mounts[0].Options)
		}
		if err := mount.WithTempMount(ctx, mounts, change); err != nil {
			return err
		}
		if err := s.Commit(ctx, name, key); err != nil {
			return err
		}
		parent = name
	}
	mounts, err := s.View(ctx, "look", parent)
	if err != nil {
		return err
	}
	err = mount.WithTempMount(ctx, mounts, func(at string) error {
		entries, err := os.ReadDir(at + "/a")
		if err != nil || len(entries) != 1 || entries[0].Name() != "b" {
			return fmt.Errorf("there is %v, %w", entries, err)
		}
		return nil
	})
	fmt.Println("lived")
	return err
}

// In a user namespace overlay keeps its marks in user.*, and mini-snapshotter does not announce what it
// cannot do there.
func TestUserXattr(t *testing.T) {
	needRoot(t)
	for _, fs := range []string{"here", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			root := t.TempDir()
			if fs != "here" {
				root = onFileSystem(t, fs)
			}
			must(t, os.Chown(root, 100000, 100000))
			must(t, os.Chmod(filepath.Dir(root), 0o755))
			cmd := exec.Command("/proc/self/exe", "userns", root+"/root")
			cmd.Env = append(os.Environ(), "TMPDIR="+root)
			ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
				GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "lived") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
