package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// Containers whose cgroup is a scope of systemd's. These tests run in a guest that systemd has booted:
// hack/vm/test -s.

func needsSystemd(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skipf("%s: this machine was not booted by systemd", t.Name())
	}
	needs(t, "memory", "pids")
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, args := range [][]string{{"systemctl", "list-jobs"}, {"systemctl", "--failed"}, {"journalctl", "-b", "--no-pager", "-n", "40"}} {
			out, err := exec.Command("timeout", append([]string{"20"}, args...)...).CombinedOutput()
			t.Logf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	})
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// unit gives a container the path of a scope, and the scope's name.
func unit(d *daemon.Daemon, slice, id string) (path oci.SpecOpts, name string) {
	return oci.WithCgroup(slice + ":mini:" + d.Namespace + "-" + id), "mini-" + d.Namespace + "-" + id + ".scope"
}

// goneUnit waits until systemd knows nothing of a unit, and its cgroup is not there.
func goneUnit(t *testing.T, name, cgroup string) {
	t.Helper()
	eventually(t, name+" is gone", func() bool {
		_, err := os.Stat(filepath.Join("/sys/fs/cgroup", cgroup))
		return os.IsNotExist(err) && systemctl(t, "show", "--value", "-p", "LoadState,ActiveState", name) == "not-found\ninactive"
	})
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	must(t, err)
	return strings.TrimSpace(string(data))
}

// The scope has the limits that the spec asks for, in systemd's books as in the kernel's: what systemd does
// later takes none away. When the container is deleted nothing is left of it.
func TestSystemdScope(t *testing.T) {
	needsSystemd(t)
	d := shared(t, "2.4")
	ctx := d.Context()
	path, name := unit(d, "system.slice", "box")
	cgroup := "/system.slice/" + name
	dir := "/sys/fs/cgroup" + cgroup
	most, quota, period, shares, burst := int64(20), int64(50_000), uint64(100_000), uint64(512), uint64(10_000)
	r := memory(64 * mebi)
	r.Pids = &specs.LinuxPids{Limit: &most}
	r.CPU = &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Burst: &burst, Cpus: "1"}
	next := follow(t, d)
	task := start(t, d, "box", path, limited(r), nodes, sleeper())

	if got := read(t, fmt.Sprintf("/proc/%d/cgroup", task.Pid())); got != "0::"+cgroup {
		t.Errorf("the first process is in %s, want %s", got, cgroup)
	}
	said := systemctl(t, "show", "-p", "ActiveState,ControlGroup,MemoryMax,MemorySwapMax,TasksMax,CPUQuotaPerSecUSec,AllowedCPUs,Delegate", name)
	for _, want := range []string{
		"ActiveState=active", "ControlGroup=" + cgroup, "MemoryMax=67108864", "MemorySwapMax=0", "TasksMax=20",
		"CPUQuotaPerSecUSec=500ms", "AllowedCPUs=1", "Delegate=yes",
	} {
		if !strings.Contains("\n"+said+"\n", "\n"+want+"\n") {
			t.Errorf("systemd does not say %s:\n%s", want, said)
		}
	}
	holds := func(when string) {
		t.Helper()
		for file, want := range map[string]string{
			"memory.max": "67108864", "memory.swap.max": "0", "pids.max": "20", "cpu.max": "50000 100000", "cpu.max.burst": "10000",
			"cpuset.cpus": "1", "cpu.weight": "59",
		} {
			if got := read(t, dir, file); got != want {
				t.Errorf("%s: %s is %s, want %s", when, file, got, want)
			}
		}
		id := strings.ReplaceAll(when, " ", "-")
		if status, out := command(t, d, task, "hold-"+id, "", hold(128)...); status != 137 {
			t.Errorf("%s: 128 MiB fit: status %d: %s", when, status, out)
		}
		status, out := command(t, d, task, "device-"+id, "", "sh", "-c", "exec 3</dev/disk")
		if status == 0 || !strings.Contains(out, "Operation not permitted") {
			t.Errorf("%s: a block device can be read: status %d: %s", when, status, out)
		}
	}
	holds("at first")
	if got := until(next, "/tasks/exit hold-at-first 137"); !strings.Contains(strings.Join(got, " "), "/tasks/oom box") {
		t.Errorf("no OOM was told: %s", got)
	}
	systemctl(t, "daemon-reload")
	holds("after daemon-reload")
	systemctl(t, "set-property", "--runtime", name, "IOWeight=50")
	holds("after set-property")
	systemctl(t, "daemon-reexec")
	holds("after daemon-reexec")

	// An update is systemd's business too, or the next reload would undo it.
	must(t, task.Update(ctx, containerd.WithResources(memory(512*mebi))))
	systemctl(t, "daemon-reload")
	if got := read(t, dir, "memory.max"); got != fmt.Sprint(512*mebi) {
		t.Errorf("after the update memory.max is %s", got)
	}
	if got := systemctl(t, "show", "--value", "-p", "MemoryMax", name); got != fmt.Sprint(512*mebi) {
		t.Errorf("after the update systemd says %s", got)
	}
	if status, out := command(t, d, task, "more", "", hold(128)...); status != 0 {
		t.Errorf("128 MiB of 512 do not fit: status %d: %s", status, out)
	}

	must(t, task.Pause(ctx))
	must(t, task.Resume(ctx))
	must(t, task.Kill(ctx, syscall.SIGKILL))
	if got := end(t, d, task); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	goneUnit(t, name, cgroup)
}

// A slice that is not there is systemd's to make, and the scopes of one pod come at once.
func TestSystemdPod(t *testing.T) {
	needsSystemd(t)
	d := shared(t, "2.4")
	slice := strings.ReplaceAll(d.Namespace, "-", "_") + "-pod1.slice"
	top := strings.TrimSuffix(slice, "-pod1.slice") + ".slice"
	t.Cleanup(func() { systemctl(t, "stop", slice, top) })
	var tasks [6]containerd.Task
	var all sync.WaitGroup
	for i := range tasks {
		id := fmt.Sprintf("box%d", i)
		path, _ := unit(d, slice, id)
		c := create(t, d, id, path, limited(memory(32*mebi)), sleeper())
		all.Go(func() {
			task, err := c.NewTask(d.Context(), cio.NullIO)
			if err == nil {
				err = task.Start(d.Context())
			}
			if err != nil {
				t.Errorf("%s: %v", id, err)
				return
			}
			tasks[i] = task
		})
	}
	all.Wait()
	for i, task := range tasks {
		_, name := unit(d, slice, fmt.Sprintf("box%d", i))
		cgroup := "/" + top + "/" + slice + "/" + name
		if task == nil {
			continue
		}
		if got := read(t, fmt.Sprintf("/proc/%d/cgroup", task.Pid())); got != "0::"+cgroup {
			t.Errorf("%s, want %s", got, cgroup)
		}
		if got := read(t, "/sys/fs/cgroup", cgroup, "memory.max"); got != fmt.Sprint(32*mebi) {
			t.Errorf("memory.max is %s", got)
		}
		must(t, task.Kill(d.Context(), syscall.SIGKILL))
		end(t, d, task)
		goneUnit(t, name, cgroup)
	}
}

// A container that ends by itself, for want of memory, or whose shim is killed, leaves no unit.
func TestSystemdEnds(t *testing.T) {
	needsSystemd(t)
	d := shared(t, "2.4")
	path, name := unit(d, "", "oom")
	task := start(t, d, "oom", path, limited(memory(16*mebi)), oci.WithProcessArgs(hold(64)...))
	if got := end(t, d, task); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	goneUnit(t, name, "/system.slice/"+name)

	path, name = unit(d, "system.slice", "orphan")
	task = start(t, d, "orphan", path, limited(memory(16*mebi)), sleeper())
	must(t, syscall.Kill(d.ShimPid("orphan"), syscall.SIGKILL))
	goneUnit(t, name, "/system.slice/"+name)
	if _, err := task.Delete(d.Context(), containerd.WithProcessKill); err != nil {
		t.Logf("delete after the shim was killed: %v", err)
	}
}

// Annotations are properties of the unit. What systemd does not take, or cannot be, is an error that says
// what it is, and leaves nothing.
func TestSystemdProperties(t *testing.T) {
	needsSystemd(t)
	d := shared(t, "2.4")
	path, name := unit(d, "system.slice", "box")
	annotated := func(property, value string) oci.SpecOpts {
		return oci.WithAnnotations(map[string]string{"org.systemd.property." + property: value})
	}
	task := start(t, d, "box", path, annotated("TimeoutStopSec", "uint64 7"), annotated("Description", "'a test'"), sleeper())
	if got, want := systemctl(t, "show", "-p", "Description,TimeoutStopUSec", name), "Description=a test\nTimeoutStopUSec=7s"; got != want {
		sorted := strings.Join([]string{strings.Split(got, "\n")[len(strings.Split(got, "\n"))-1], strings.Split(got, "\n")[0]}, "\n")
		if sorted != want {
			t.Errorf("systemd says %q, want %q", got, want)
		}
	}
	must(t, task.Kill(d.Context(), syscall.SIGKILL))
	end(t, d, task)
	goneUnit(t, name, "/system.slice/"+name)

	for i, c := range []struct {
		opt  oci.SpecOpts
		want string
	}{
		{annotated("Description", "unquoted text"), "annotations[org.systemd.property.Description]"},
		{annotated("NoSuchThing", "true"), "NoSuchThing"},
		{annotated("PIDs", "[1]"), "annotations[org.systemd.property.PIDs]"},
		{oci.WithCgroup("a--b.slice:mini:x"), "linux.cgroupsPath"},
	} {
		id := fmt.Sprintf("bad%d", i)
		path, name := unit(d, "system.slice", id)
		_, err := create(t, d, id, path, c.opt, sleeper()).NewTask(d.Context(), cio.NullIO)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want an error that names %s", err, c.want)
		}
		goneUnit(t, name, "/system.slice/"+name)
	}

	// Two of one name: the first one stays whole.
	path, name = unit(d, "system.slice", "one")
	first := start(t, d, "one", path, sleeper())
	_, err := create(t, d, "two", path, sleeper()).NewTask(d.Context(), cio.NullIO)
	if err == nil || !strings.Contains(err.Error(), "linux.cgroupsPath") {
		t.Errorf("a second container in a scope: %v", err)
	}
	if got := systemctl(t, "show", "--value", "-p", "ActiveState", name); got != "active" {
		t.Errorf("the scope of the first is %s", got)
	}
	if status, out := command(t, d, first, "e", "", "true"); status != 0 {
		t.Errorf("the first is harmed: %s", out)
	}
}

// Where systemd has not booted the machine, it is said so.
func TestGuestSystemdMissing(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skipf("%s: systemd is there", t.Name())
	}
	d := shared(t, "2.4")
	_, err := create(t, d, "box", oci.WithCgroup("system.slice:mini:x"), sleeper()).NewTask(d.Context(), cio.NullIO)
	if err == nil || !strings.Contains(err.Error(), "linux.cgroupsPath: systemd: ") || !strings.Contains(err.Error(), "not booted by") {
		t.Errorf("%v, want an error that says that systemd is not there", err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/system.slice"); err == nil {
		t.Error("a slice was made without systemd")
	}
}

// memory.oom.group is systemd's to know as well: it would write it away otherwise.
func TestSystemdOOMGroup(t *testing.T) {
	needsSystemd(t)
	d := shared(t, "2.4")
	path, name := unit(d, "system.slice", "box")
	r := memory(32 * mebi)
	r.Unified = map[string]string{"memory.oom.group": "1"}
	task := start(t, d, "box", path, limited(r), sleeper())
	systemctl(t, "daemon-reload")
	systemctl(t, "set-property", "--runtime", name, "TasksMax=50")
	if got := read(t, "/sys/fs/cgroup/system.slice", name, "memory.oom.group"); got != "1" {
		t.Errorf("memory.oom.group is %s", got)
	}
	must(t, task.Update(d.Context(), containerd.WithResources(r)))
	if status, out := command(t, d, task, "e", "", hold(64)...); status != 137 {
		t.Errorf("status %d, want 137: %s", status, out)
	}
	if got := end(t, d, task); got != 137 {
		t.Errorf("the first process lived on: %d", got)
	}
	goneUnit(t, name, "/system.slice/"+name)
}

// A bus that does not answer is an error when the time is over, and leaves nothing.
func TestSystemdSilent(t *testing.T) {
	needsSystemd(t)
	d := shared(t, "2.4")
	path, name := unit(d, "system.slice", "box")
	c := create(t, d, "box", path, sleeper())
	bus := systemctl(t, "show", "--value", "-p", "MainPID", "dbus.service")
	run(t, "kill", "-STOP", bus)
	goes := sync.OnceFunc(func() { run(t, "kill", "-CONT", bus) })
	t.Cleanup(goes)
	_, err := c.NewTask(d.Context(), cio.NullIO)
	goes()
	if err == nil || !strings.Contains(err.Error(), "linux.cgroupsPath: systemd: "+name) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("%v, want an error that says that systemd does not answer", err)
	}
	d.AssertClean()
	goneUnit(t, name, "/system.slice/"+name)
}

// A machine need not have a bus: systemd is then asked directly.
func TestSystemdWithoutBus(t *testing.T) {
	needsSystemd(t)
	throwaway(t)
	d := shared(t, "2.4")
	systemctl(t, "stop", "dbus.socket", "dbus.service")
	t.Cleanup(func() { systemctl(t, "start", "dbus.socket", "dbus.service") })
	path, name := unit(d, "system.slice", "box")
	task := start(t, d, "box", path, limited(memory(32*mebi)), sleeper())
	if got := systemctl(t, "show", "--value", "-p", "ActiveState,MemoryMax", name); got != "active\n33554432" && got != "33554432\nactive" {
		t.Errorf("systemd says %q", got)
	}
	for i := range int64(20) { // a connection each
		must(t, task.Update(d.Context(), containerd.WithResources(memory((64+i)*mebi))))
	}
	must(t, task.Kill(d.Context(), syscall.SIGKILL))
	end(t, d, task)
	goneUnit(t, name, "/system.slice/"+name)
}

// Without a cgroup namespace a container in a scope is shown its own part of the hierarchy, or all of it where
// that is what its spec binds; it stays there when systemd has taken the scope over.
func TestSystemdCgroupMounts(t *testing.T) {
	needsSystemd(t)
	d := shared(t, "2.4")
	for id, m := range map[string]specs.Mount{
		"part":  {Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		"whole": {Destination: "/sys/fs/cgroup", Type: "bind", Source: "/sys/fs/cgroup", Options: []string{"rbind", "ro"}},
	} {
		path, name := unit(d, "system.slice", id)
		task := start(t, d, id, path, sleeper(), specOf(func(s *oci.Spec) {
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys/fs/cgroup" })
			s.Mounts = append(s.Mounts, m)
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
		}))
		dir := map[string]string{"part": "/sys/fs/cgroup", "whole": "/sys/fs/cgroup/system.slice/" + name}[id]
		// The shell is in there, too.
		status, out := command(t, d, task, "look", "", "sh", "-c", "cat /proc/self/cgroup; wc -l <"+dir+"/cgroup.procs; echo 1 >"+dir+"/pids.max")
		want := "0::/system.slice/" + name + "\n3\nsh: can't create " + dir + "/pids.max: Read-only file system\n"
		if status == 0 || out != want {
			t.Errorf("%s: status %d: %q, want %q", id, status, out, want)
		}
	}
}
