package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"
)

// TestTmpfs: a tmpfs without a mode is like the directory that it covers, and one
// with tmpcopyup has what that has.
func TestTmpfs(t *testing.T) {
	r := newRig(t)
	r.applets("stat", "readlink", "ls")
	root := filepath.Join(r.dir, "rootfs")
	for dir, mode := range map[string]os.FileMode{"tmp": 0o751 | os.ModeSticky, "copy": 0o710 | os.ModeSetgid, "copy/sub": 0o700, "real": 0o755} {
		r.must(os.MkdirAll(filepath.Join(root, dir), 0o755))
		r.must(os.Chmod(filepath.Join(root, dir), mode))
	}
	r.must(os.Chown(filepath.Join(root, "copy"), 3, 4))
	r.must(os.Chmod(filepath.Join(root, "copy"), 0o710|os.ModeSetgid))
	big := strings.Repeat("0123456789abcdef", 200<<10)
	file := filepath.Join(root, "copy/sub/file")
	r.must(os.WriteFile(file, []byte(big), 0o644))
	r.must(os.Chown(file, 5, 6))
	r.must(os.Chmod(file, 0o750|os.ModeSetuid))
	r.must(unix.Setxattr(file, "trusted.mini", []byte("value"), 0))
	r.must(os.Symlink("../../../../../etc/passwd", filepath.Join(root, "copy/link")))
	r.must(unix.Mkfifo(filepath.Join(root, "copy/fifo"), 0o600))
	// A link that would lead out of the root leads to the root.
	r.must(os.Symlink("../../../../real", filepath.Join(root, "linked")))
	r.must(os.WriteFile(filepath.Join(root, "real/one"), nil, 0o644))

	tmpfs := func(dest string, options ...string) specs.Mount {
		return specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	spec := r.spec("sh", "-c", `stat -c "%a %u %g %n" /tmp /new/dir /moded /copy /copy/sub /copy/sub/file
		readlink /copy/link; ls /copy /linked; stat -c %s /copy/sub/file; stat -c %F /copy/fifo; touch /copy/x; touch /ro/x 2>&1; touch /tmp/y && echo written`)
	all := []string{"CAP_DAC_OVERRIDE"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	spec.Mounts = append(spec.Mounts, tmpfs("/tmp"), tmpfs("/new/dir"), tmpfs("/moded", "mode=0123", "silent"), tmpfs("/copy", "tmpcopyup", "size=8m"),
		tmpfs("/linked", "tmpcopyup"), tmpfs("/ro", "tmpcopyup", "ro"), tmpfs("/none/there", "tmpcopyup"))
	r.must(os.Symlink("busybox", filepath.Join(root, "bin", "touch")))
	got := r.output("x", spec)
	for _, want := range []string{
		"1751 0 0 /tmp\n", "1777 0 0 /new/dir\n", "123 0 0 /moded\n", "2710 3 4 /copy\n", "700 0 0 /copy/sub\n", "4750 5 6 /copy/sub/file\n",
		"../../../../../etc/passwd\n", "fifo\nlink\nsub\n", "one\n", "3276800\n", "fifo\n", "Read-only file system", "written",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	// Nothing of it has changed the root.
	if left, err := os.ReadDir(filepath.Join(root, "copy")); err != nil || len(left) != 3 {
		t.Errorf("%v %v", left, err)
	}
	r.assertClean()

	spec.Mounts = append(spec.Mounts[:1], tmpfs("/copy", "tmpcopyup", "size=64k"))
	_, err := r.client.Create(t.Context(), r.request("y", spec))
	if err == nil || !strings.Contains(status.Convert(err).Message(), "mounts[1]: tmpcopyup /copy: copy sub: copy file: no space left on device") {
		t.Errorf("%v", err)
	}
	spec.Mounts = append(spec.Mounts[:1], tmpfs("/tmp"))
	spec.Linux.MountLabel = "system_u:object_r:container_file_t:s0"
	_, err = r.client.Create(t.Context(), r.request("z", spec))
	if _, serr := os.Stat("/sys/fs/selinux/enforce"); serr != nil && (err == nil || !strings.HasPrefix(status.Convert(err).Message(), "linux.mountLabel: system_u")) {
		t.Errorf("%v", err)
	}
	r.assertClean()
}

// TestMountPoints: on files, in directories that are not there, through links that
// lead to nothing, and through those that lead out of the root.
func TestMountPoints(t *testing.T) {
	r := newRig(t)
	r.applets("ls")
	root := filepath.Join(r.dir, "rootfs")
	source := filepath.Join(r.dir, "source")
	r.must(os.WriteFile(source, []byte("source\n"), 0o644))
	r.must(os.WriteFile(filepath.Join(root, "file"), []byte("file\n"), 0o644))
	r.must(os.Mkdir(filepath.Join(root, "etc"), 0o755))
	r.must(os.Symlink("../run/missing.conf", filepath.Join(root, "etc/resolv.conf")))
	r.must(os.Mkdir(filepath.Join(root, "run"), 0o755))
	r.must(os.Symlink("../../../../../../deep", filepath.Join(root, "out")))
	r.must(os.Mkdir(filepath.Join(root, "deep"), 0o755))
	spec := r.spec("sh", "-c", "cat /file /a/b/c/file /etc/resolv.conf /run/missing.conf /deep/x/file; ls /sysfs")
	bind := func(dest string) specs.Mount {
		return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"bind"}}
	}
	spec.Mounts = append(spec.Mounts, bind("/file"), bind("/a/b/c/file"), bind("/etc/resolv.conf"), bind("/out/x/file"),
		specs.Mount{Destination: "sysfs", Type: "sysfs", Source: "sysfs"})
	got := r.output("x", spec)
	if !strings.HasPrefix(got, strings.Repeat("source\n", 5)) || !strings.Contains(got, "kernel\n") {
		t.Errorf("%s", got)
	}
	r.assertClean()
}

// TestMountPointsNowhere: a symlink to what is not there yet leads there afterwards,
// inside the root, in whatever file system the way is.
func TestMountPointsNowhere(t *testing.T) {
	for _, how := range []string{"plain", "user namespace", "hooks", "shared pid namespace"} {
		user := how == "user namespace"
		r := newRig(t)
		r.applets("ls", "stat")
		root := filepath.Join(r.dir, "rootfs")
		source := filepath.Join(r.dir, "source")
		r.must(os.WriteFile(source, []byte("source\n"), 0o644))
		r.must(os.Mkdir(filepath.Join(root, "var"), 0o755))
		for name, target := range map[string]string{
			"var/run": "../run", "abs": "/one/two", "up": "../../../../three/./four", "back": "five/../six", "chain": "chained", "chained": "/seven",
			"conf": "../run/systemd/resolve/stub.conf", "into": "/tmp/made/here", "var/dots": "run/../eight//",
		} {
			r.must(os.Symlink(target, filepath.Join(root, name)))
		}
		if user {
			r.chown(root, mappedRoot)
		}
		spec := r.spec("sh", "-c", `cat /run/secrets/x/file /one/two/file /three/four/file /six/file /seven/file /run/systemd/resolve/stub.conf /conf \
				/tmp/made/here/file /eight/file && ls -d /five && ls /direct && stat -c "%u %g %a %n" /one /one/two /one/two/file /run/secrets /tmp/made`)
		file := func(dest string) specs.Mount {
			return specs.Mount{Destination: dest, Type: "bind", Source: source, Options: []string{"bind"}}
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
			file("/var/run/secrets/x/file"), file("/abs/file"), file("/up/file"), file("/back/file"), file("/chain/file"), file("/conf"),
			file("/into/file"), file("/var/dots/file"))
		// The mount point itself.
		r.must(os.Symlink("var/nine/ten", filepath.Join(root, "direct")))
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/direct", Type: "bind", Source: filepath.Join(root, "bin"), Options: []string{"rbind"}})
		var rootfs []*types.Mount
		switch how {
		case "user namespace":
			mapped(spec)
		case "hooks": // they want the root where the spec says, and a gate
			spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}}
			rootfs = []*types.Mount{{Type: "bind", Source: root, Options: []string{"rbind"}}}
			spec.Root.Path = filepath.Join(r.dir, "shown")
			r.must(os.Mkdir(spec.Root.Path, 0o755))
		case "shared pid namespace":
			for i := range spec.Linux.Namespaces {
				if ns := &spec.Linux.Namespaces[i]; ns.Type == specs.PIDNamespace {
					ns.Path = "/proc/self/ns/pid"
				}
			}
		}
		want := strings.Repeat("source\n", 9) + "/five\n"
		// The file is the source, whose owner is nobody's in there.
		owners := "0 0 755 /one\n0 0 755 /one/two\n0 0 644 /one/two/file\n0 0 755 /run/secrets\n0 0 755 /tmp/made\n"
		if user {
			owners = strings.ReplaceAll(owners, "0 0 644", "65534 65534 644")
		}
		if got := r.output("x", spec, rootfs...); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, owners) || !strings.Contains(got, "busybox\n") {
			t.Errorf("%s: %s", how, got)
		}
		r.assertClean()

		// What cannot be made says what and why.
		for name, target := range map[string]string{"loop1": "loop2", "loop2": "loop1", "ring": "x/../ring", "self": "/proc/self/fd/5/x", "notdir": "bin/busybox/x"} {
			r.must(os.Symlink(target, filepath.Join(root, name)))
		}
		for dest, why := range map[string]string{"/loop1/x": loop, "/ring": loop, "/self/x": loop, "/notdir/x": "not a directory", "/proc/nothing/x": notThere} {
			spec.Mounts = append(spec.Mounts[:1], file(dest))
			req := r.request("y", spec)
			req.Rootfs = rootfs
			_, err := r.client.Create(t.Context(), req)
			if err == nil || !strings.Contains(status.Convert(err).Message(), "mount point "+dest+": ") || !strings.HasSuffix(status.Convert(err).Message(), why) {
				t.Errorf("%s: %v, want %q", dest, err, why)
			}
		}
		r.assertClean()
	}
}

// TestOwnCgroup: a user namespace may divide the cgroup that its spec lets it
// write to.
func TestOwnCgroup(t *testing.T) {
	r := newRig(t)
	r.chown(filepath.Join(r.dir, "rootfs"), mappedRoot)
	for _, options := range [][]string{{"rw"}, {"ro"}} {
		spec := r.spec("sh", "-c", "mkdir /cg/sub && echo 0 > /cg/sub/cgroup.procs && cat /proc/self/cgroup")
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/cg", Type: "cgroup", Source: "cgroup", Options: options})
		mapped(spec)
		if got := r.output("x", spec); strings.Contains(got, "0::/sub\n") != (options[0] == "rw") {
			t.Errorf("%s: %s", options, got)
		}
		r.assertClean()
	}
}
