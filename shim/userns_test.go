package shim

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// Where the root of a container with a user namespace is in these tests.
const mappedRoot, mappedSize = 100000, 65536

// mapped puts the container into a user namespace of its own.
func mapped(s *specs.Spec) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: mappedSize}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
}

// chown gives the root of the rig to somebody, as a snapshotter does.
func (r *rig) chown(dir string, id int) {
	r.t.Helper()
	r.must(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, id, id)
	}))
}

// output runs a container to its end and returns what it printed.
func (r *rig) output(id string, spec *specs.Spec, rootfs ...*types.Mount) string {
	r.t.Helper()
	req := r.request(id, spec)
	req.Rootfs = rootfs
	out := filepath.Join(r.dir, "out-"+id)
	r.must(os.WriteFile(out, nil, 0o600))
	req.Stdout, req.Stderr = "file://"+out, "file://"+out
	_, err := r.client.Create(r.t.Context(), req)
	r.must(err)
	_, err = r.client.Start(r.t.Context(), &task.StartRequest{ID: id})
	r.must(err)
	r.wait(id)
	r.remove(id)
	data, err := os.ReadFile(out)
	r.must(err)
	return string(data)
}

// applets puts more of busybox into the root.
func (r *rig) applets(names ...string) {
	r.t.Helper()
	for _, name := range names {
		r.must(os.Symlink("busybox", filepath.Join(r.dir, "rootfs", "bin", name)))
	}
}

// full is a spec with what containers commonly have.
func (r *rig) full(script string) *specs.Spec {
	s := r.spec("sh", "-c", script)
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	)
	s.Linux.Namespaces = append(s.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.NetworkNamespace}, specs.LinuxNamespace{Type: specs.IPCNamespace},
		specs.LinuxNamespace{Type: specs.UTSNamespace})
	s.Hostname = "inside"
	s.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/scsi", "/sys/firmware"}
	s.Linux.ReadonlyPaths = []string{"/proc/sys"}
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "7"}
	return s
}

// TestUserNamespace: root inside is nobody outside, whatever one looks at, for the
// container's first process and for execs.
func TestUserNamespace(t *testing.T) {
	r := newRig(t)
	r.applets("grep", "head", "hostname", "id", "ls", "mount", "ps", "readlink", "touch")
	r.chown(filepath.Join(r.dir, "rootfs"), mappedRoot)
	spec := r.full(`cat /proc/self/uid_map /proc/self/gid_map; id; hostname; ls -ln /dev | grep null
		cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo x > /dev/null && echo null works
		cat /proc/self/setgroups; touch /made && ls -ln /made; cat /sys/class/net/lo/operstate
		cat /sys/fs/cgroup/cgroup.type /proc/self/cgroup; mount -t tmpfs x /proc/scsi 2>&1; cat /proc/kcore | head -c 10`)
	mapped(spec)
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1000, Hard: 1001}}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}}
	got := r.output("x", spec)
	t.Log(got)
	for _, want := range []string{
		fmt.Sprintf("0     %d      %d\n", mappedRoot, mappedSize), "uid=0 gid=0", "inside", "1,   3", "7\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	st, err := os.Stat(filepath.Join(r.dir, "rootfs", "made"))
	r.must(err)
	var stat unix.Stat_t
	r.must(unix.Stat(filepath.Join(r.dir, "rootfs", "made"), &stat))
	if stat.Uid != mappedRoot || stat.Gid != mappedRoot {
		t.Errorf("%v belongs to %d:%d", st.Name(), stat.Uid, stat.Gid)
	}
	r.assertClean()
}

// exec runs a process in a running container and returns its exit status and what
// it printed.
func (r *rig) exec(id string, proc *specs.Process) (uint32, string) {
	r.t.Helper()
	ctx := r.t.Context()
	out := filepath.Join(r.dir, "out-exec")
	r.must(os.WriteFile(out, nil, 0o600))
	data, err := json.Marshal(proc)
	r.must(err)
	_, err = r.client.Exec(ctx, &task.ExecProcessRequest{
		ID: id, ExecID: "e", Spec: &anypb.Any{Value: data}, Stdout: "file://" + out, Stderr: "file://" + out,
	})
	r.must(err)
	_, err = r.client.Start(ctx, &task.StartRequest{ID: id, ExecID: "e"})
	r.must(err)
	waited, err := r.client.Wait(ctx, &task.WaitRequest{ID: id, ExecID: "e"})
	r.must(err)
	_, err = r.client.Delete(ctx, &task.DeleteRequest{ID: id, ExecID: "e"})
	r.must(err)
	data, err = os.ReadFile(out)
	r.must(err)
	return waited.ExitStatus, string(data)
}

func sh(script string) *specs.Process {
	return &specs.Process{Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}}
}

// TestUserNamespaceShared: the containers of a Kubernetes pod share a user
// namespace that one of them, or containerd, has made, with the network and the
// pid namespace that belong to it.
func TestUserNamespaceShared(t *testing.T) {
	r := newRig(t)
	r.applets("grep", "head", "hostname", "id", "ls", "mount", "ps", "readlink", "touch")
	r.chown(filepath.Join(r.dir, "rootfs"), mappedRoot)
	spec := r.full("sleep 100")
	mapped(spec)
	created, err := r.client.Create(t.Context(), r.request("pause", spec))
	r.must(err)
	_, err = r.client.Start(t.Context(), &task.StartRequest{ID: "pause"})
	r.must(err)
	ns := func(name string) string { return fmt.Sprintf("/proc/%d/ns/%s", created.Pid, name) }

	status, got := r.exec("pause", sh("id; cat /proc/self/uid_map; ps; touch /by-exec"))
	if status != 0 || !strings.Contains(got, "uid=0 gid=0\n") || !strings.Contains(got, "100000") {
		t.Errorf("exec: %d: %s", status, got)
	}
	user := sh("id; echo out > /dev/stdout")
	user.User = specs.User{UID: 7, GID: 8}
	if status, got := r.exec("pause", user); status != 0 || got != "uid=7 gid=8 groups=8\nout\n" && got != "uid=7 gid=8\nout\n" {
		t.Errorf("exec as a user: %d: %s", status, got)
	}

	for _, pid := range []string{"", ns("pid")} {
		second := r.full("cat /proc/self/uid_map; readlink /proc/self/ns/user; readlink /proc/self/ns/net; touch /second; echo ok > /dev/null; cat /proc/1/comm")
		second.Hostname = ""
		second.Linux.CgroupsPath += "-second"
		second.Linux.Namespaces = []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.PIDNamespace, Path: pid}, {Type: specs.CgroupNamespace},
			{Type: specs.NetworkNamespace, Path: ns("net")}, {Type: specs.IPCNamespace, Path: ns("ipc")}, {Type: specs.UTSNamespace, Path: ns("uts")},
			{Type: specs.UserNamespace, Path: ns("user")},
		}
		second.Linux.UIDMappings, second.Linux.GIDMappings = spec.Linux.UIDMappings, spec.Linux.GIDMappings
		got := r.output("second", second)
		for _, name := range []string{"user", "net"} {
			link, err := os.Readlink(ns(name))
			if err != nil || !strings.Contains(got, link) {
				t.Errorf("%s namespace: no %q in %s", name, link, got)
			}
		}
		if want := map[bool]string{true: "cat\n", false: "sleep\n"}[pid == ""]; !strings.HasSuffix(got, want) {
			t.Errorf("pid 1: %q, want %q", got, want)
		}
	}
	r.remove("pause")
	r.assertClean()
}

// TestIDMappedMounts: what belongs to the host's root, or to any of its users, is
// that of the container's.
func TestIDMappedMounts(t *testing.T) {
	r := newRig(t)
	r.applets("grep", "head", "hostname", "id", "ls", "mount", "ps", "readlink", "touch")
	rootfs := filepath.Join(r.dir, "rootfs") // root's: the overlay maps it
	source := filepath.Join(r.dir, "volume")
	r.must(os.MkdirAll(source, 0o755))
	r.must(os.WriteFile(filepath.Join(source, "file"), nil, 0o600))
	r.must(os.Chown(filepath.Join(source, "file"), 5, 6))
	upper, work := filepath.Join(r.dir, "upper"), filepath.Join(r.dir, "work")
	layer := filepath.Join(r.dir, "layer")
	r.must(os.Mkdir(layer, 0o755))
	for _, dir := range []string{upper, work} {
		r.must(os.Mkdir(dir, 0o755))
		r.must(os.Chown(dir, mappedRoot, mappedRoot))
	}
	idmap := fmt.Sprintf("map=0:%d:%d", mappedRoot, mappedSize)
	overlay := &types.Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + layer + ":" + rootfs, "upperdir=" + upper, "workdir=" + work, "uid" + idmap, "gid" + idmap,
	}}
	spec := r.full("ls -lnd /bin /bin/busybox; ls -ln /map /umap /rmap; touch /map/new /written")
	mapped(spec)
	maps := []specs.LinuxIDMapping{{ContainerID: 5, HostID: mappedRoot + 50, Size: 2}}
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/map", Type: "bind", Source: source, Options: []string{"bind", "idmap"}},
		specs.Mount{Destination: "/rmap", Type: "bind", Source: source, Options: []string{"rbind", "ridmap", "ro"}},
		specs.Mount{Destination: "/umap", Type: "bind", Source: source, Options: []string{"rbind"}, UIDMappings: maps, GIDMappings: maps},
	)
	got := r.output("x", spec, overlay)
	for _, want := range []string{
		"1 0        0          ", "1 5        6 ", "1 50       51 ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for path, want := range map[string]uint32{filepath.Join(source, "new"): 0, filepath.Join(upper, "written"): mappedRoot} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Uid != want {
			t.Errorf("%s: %v, belongs to %d, want %d", path, err, st.Uid, want)
		}
	}
	r.assertClean()
}

// TestTimeNamespace: a container's clocks are moved by linux.timeOffsets, its
// execs' too, and those of a container that joins it.
func TestTimeNamespace(t *testing.T) {
	r := newRig(t)
	r.applets("grep", "head", "hostname", "id", "ls", "mount", "ps", "readlink", "touch")
	for _, user := range []bool{false, true} {
		spec := r.spec("sleep", "100")
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 5000000}, "monotonic": {Secs: 7, Nanosecs: 5}}
		if user {
			r.chown(filepath.Join(r.dir, "rootfs"), mappedRoot)
			mapped(spec)
		}
		created, err := r.client.Create(t.Context(), r.request("x", spec))
		r.must(err)
		_, err = r.client.Start(t.Context(), &task.StartRequest{ID: "x"})
		r.must(err)
		if _, got := r.exec("x", sh("cat /proc/self/timens_offsets; cat /proc/uptime")); !moved(got) {
			t.Errorf("exec: %s", got)
		}
		if !user {
			joined := r.spec("sh", "-c", "cat /proc/self/timens_offsets /proc/uptime")
			joined.Linux.CgroupsPath += "-joined"
			joined.Linux.Namespaces = append(joined.Linux.Namespaces,
				specs.LinuxNamespace{Type: specs.TimeNamespace, Path: fmt.Sprintf("/proc/%d/ns/time", created.Pid)})
			if got := r.output("y", joined); !moved(got) {
				t.Errorf("joined: %s", got)
			}
		}
		r.remove("x")
	}
	r.assertClean()
}

func moved(out string) bool {
	var sec, nsec, boot, bootNsec int64
	var up float64
	_, err := fmt.Sscanf(out, "monotonic %d %d\nboottime %d %d\n%f", &sec, &nsec, &boot, &bootNsec, &up)
	return err == nil && sec == 7 && nsec == 5 && boot == 5000000 && up > 5000000
}
