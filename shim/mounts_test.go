package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
