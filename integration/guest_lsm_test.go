package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// loadProfile has AppArmor know a profile for the time of a test.
func loadProfile(t *testing.T, name, rules string) {
	t.Helper()
	text := fmt.Sprintf("profile %s flags=(attach_disconnected,mediate_deleted) {\n%s\n}\n", name, rules)
	parser := func(option string) error {
		cmd := exec.Command("apparmor_parser", "--skip-cache", option)
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("apparmor_parser %s: %w: %s", option, err, out)
		}
		return nil
	}
	must(t, parser("--replace"))
	t.Cleanup(func() {
		if err := parser("--remove"); err != nil {
			t.Error(err)
		}
	})
}

// fakeProc gives a container a /proc from the host, CVE-2019-16884 and CVE-2025-52881: what is written to it
// about labels and profiles would go nowhere. It returns what fails where something was.
func fakeProc(t *testing.T) (opt oci.SpecOpts, untouched func()) {
	dir := t.TempDir()
	var files []string
	for _, name := range []string{"exec", "keycreate", "apparmor/exec"} {
		for _, who := range []string{"self", "thread-self"} {
			file := filepath.Join(dir, who, "attr", name)
			must(t, os.MkdirAll(filepath.Dir(file), 0o755))
			must(t, os.WriteFile(file, nil, 0o666))
			files = append(files, file)
		}
	}
	opt = specOf(func(s *oci.Spec) {
		for i := range s.Mounts {
			if s.Mounts[i].Destination == "/proc" {
				s.Mounts[i] = specs.Mount{Destination: "/proc", Type: "bind", Source: dir, Options: []string{"rbind"}}
			}
		}
	})
	return opt, func() {
		for _, file := range files {
			if got := read(t, file); got != "" {
				t.Errorf("%s: %q was written to a /proc that is not the kernel's", file, got)
			}
		}
	}
}

const hasAppArmor = "/sys/module/apparmor/parameters/enabled"

// A container runs under the profile that its spec names, with no_new_privs and without, as root and as a
// user; and so does an exec.
func TestGuestAppArmor(t *testing.T) {
	if data, err := os.ReadFile(hasAppArmor); err != nil || strings.TrimSpace(string(data)) != "Y" {
		t.Skipf("%s: no AppArmor in this kernel", t.Name())
	}
	d := shared(t, "2.4")
	const name = "mini-test"
	loadProfile(t, name, "file,\ncapability,\nnetwork,\nsignal,\nunix,\ndeny /tmp/forbidden w,")
	const try = `cat /proc/self/attr/apparmor/current; echo x >/tmp/allowed && echo allowed; echo x >/tmp/forbidden || echo forbidden`
	const want = name + " (enforce)\nallowed\nforbidden\n"
	// The default spec has no_new_privs.
	profile := func(s *specs.Process) { s.ApparmorProfile = name }
	for i, change := range []func(*specs.Process){
		func(*specs.Process) {},
		func(p *specs.Process) { p.NoNewPrivileges = false },
		func(p *specs.Process) { p.User.UID, p.User.GID = 1000, 1000 },
	} {
		id := fmt.Sprintf("box%d", i)
		task := start(t, d, id, sleeper(), process(profile), process(change))
		if got := read(t, fmt.Sprintf("/proc/%d/attr/apparmor/current", task.Pid())); got != name+" (enforce)" {
			t.Errorf("%s: the first process runs as %q", id, got)
		}
		_, out := command(t, d, task, "e", "", "sh", "-c", try+" 2>/dev/null")
		if out = strings.ReplaceAll(out, "sh: can't create /tmp/forbidden: Permission denied\n", ""); out != want {
			t.Errorf("%s: an exec says %q, want %q", id, out, want)
		}
	}

	fake, untouched := fakeProc(t)
	task := start(t, d, "fake", sleeper(), fake, process(profile))
	if got := read(t, fmt.Sprintf("/proc/%d/attr/apparmor/current", task.Pid())); got != name+" (enforce)" {
		t.Errorf("with a /proc that is not the kernel's it runs as %q", got)
	}
	untouched()

	_, err := create(t, d, "none", sleeper(), process(func(p *specs.Process) { p.ApparmorProfile = "mini-no-such" })).NewTask(d.Context(), cio.NullIO)
	if err == nil || !strings.Contains(err.Error(), "process.apparmorProfile: mini-no-such: not loaded") {
		t.Errorf("a profile that is not loaded: %v", err)
	}
}

// A container runs with the label of SELinux that its spec names, on a root and on mounts with another, and so
// does an exec; what the policy does not let it touch is denied. hack/vm/test boots a guest with SELinux for
// this, and compiles hack/vm/selinux.conf.
func TestSELinux(t *testing.T) {
	policy, err := os.ReadFile(os.Getenv("MINI_TEST_SELINUX_POLICY"))
	if err != nil {
		t.Skipf("%s: needs a guest with SELinux: hack/vm/test -p integration TestSELinux", t.Name())
	}
	const fs = "/sys/fs/selinux"
	must(t, unix.Mount("selinuxfs", fs, "selinuxfs", 0, ""))
	must(t, os.WriteFile(fs+"/load", policy, 0))
	must(t, os.WriteFile(fs+"/enforce", []byte("1"), 0))
	d := shared(t, "2.4")

	const label, files = "system_u:system_r:box_t:s0:c1,c2", "system_u:object_r:box_file_t:s0:c1,c2"
	host := t.TempDir()
	must(t, os.WriteFile(host+"/file", []byte("of the host\n"), 0o644))
	for _, name := range []string{host, host + "/file"} {
		must(t, unix.Setxattr(name, "security.selinux", []byte("system_u:object_r:secret_t:s0"), 0))
	}
	labels := specOf(func(s *oci.Spec) {
		s.Process.SelinuxLabel, s.Linux.MountLabel = label, files
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/host", Type: "bind", Source: host, Options: []string{"rbind"}},
			specs.Mount{Destination: "/copy", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
			specs.Mount{Destination: "/other", Type: "tmpfs", Source: "tmpfs", Options: []string{`context="system_u:object_r:host_t:s0:c0,c3"`}})
	})
	for i, change := range []func(*specs.Process){
		func(*specs.Process) {}, // with no_new_privs
		func(p *specs.Process) { p.NoNewPrivileges = false },
		func(p *specs.Process) { p.User.UID, p.User.GID = 1000, 1000 },
	} {
		id := fmt.Sprintf("box%d", i)
		task := start(t, d, id, sleeper(), labels, process(change))
		if got := read(t, fmt.Sprintf("/proc/%d/attr/current", task.Pid())); strings.Trim(got, "\x00") != label {
			t.Errorf("%s: the first process runs as %q", id, got)
		}
		_, out := command(t, d, task, "e", "", "sh", "-c", "cat /proc/self/attr/current; echo; cat /host/file 2>&1; echo x >/dev/shm/x && cat /dev/shm/x")
		if want := label + "\ncat: can't open '/host/file': Permission denied\nx\n"; strings.ReplaceAll(out, "\x00", "") != want {
			t.Errorf("%s: an exec says %q, want %q", id, out, want)
		}
		for dir, want := range map[string]string{
			"": files, "/dev": files, "/dev/shm": files, "/dev/pts": files, "/dev/mqueue": files, "/run": files, "/copy": files,
			"/other": "system_u:object_r:host_t:s0:c0,c3", "/proc": "system_u:object_r:proc_t:s0", "/host": "system_u:object_r:secret_t:s0",
		} {
			buf := make([]byte, 256)
			n, err := unix.Getxattr(fmt.Sprintf("/proc/%d/root%s", task.Pid(), dir), "security.selinux", buf)
			if err != nil || strings.Trim(string(buf[:n]), "\x00") != want {
				t.Errorf("%s: %s/ has the label %q (%v), want %s", id, dir, buf[:max(n, 0)], err, want)
			}
		}
	}

	fake, untouched := fakeProc(t)
	task := start(t, d, "fake", sleeper(), labels, fake)
	if got := read(t, fmt.Sprintf("/proc/%d/attr/current", task.Pid())); strings.Trim(got, "\x00") != label {
		t.Errorf("with a /proc that is not the kernel's it runs as %q", got)
	}
	untouched()

	for id, c := range map[string]struct {
		change oci.SpecOpts
		want   string
	}{
		"none":    {process(func(p *specs.Process) { p.SelinuxLabel = "system_u:system_r:none_t:s0" }), "process.selinuxLabel: system_u:system_r:none_t:s0: unknown to the policy that is loaded"},
		"nowhere": {specOf(func(s *oci.Spec) { s.Linux.MountLabel = "system_u:object_r:none_t:s0" }), "system_u:object_r:none_t:s0"},
	} {
		_, err := create(t, d, id, sleeper(), c.change).NewTask(d.Context(), cio.NullIO)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a label that the policy does not have: %v", err)
		}
	}
}

// Where the kernel has no SELinux, a label is refused by name.
func TestSELinuxMissing(t *testing.T) {
	data, err := os.ReadFile("/proc/filesystems")
	must(t, err)
	if strings.Contains(string(data), "selinuxfs") {
		t.Skipf("%s: SELinux is in this kernel", t.Name())
	}
	d := shared(t, "2.4")
	for field, change := range map[string]oci.SpecOpts{
		"process.selinuxLabel": process(func(p *specs.Process) { p.SelinuxLabel = "x" }),
		"linux.mountLabel":     specOf(func(s *oci.Spec) { s.Linux.MountLabel = "x" }),
	} {
		_, err := create(t, d, "box-"+strings.ToLower(field[len(field)-10:]), sleeper(), change).NewTask(d.Context(), cio.NullIO)
		if err == nil || !strings.Contains(err.Error(), field+": x: SELinux is not in this kernel") {
			t.Errorf("%s: %v, want an error that says what the kernel lacks", field, err)
		}
	}
}

// Where the kernel has no AppArmor, a profile is refused by name.
func TestAppArmorMissing(t *testing.T) {
	if _, err := os.Stat(hasAppArmor); err == nil {
		t.Skipf("%s: AppArmor is in this kernel", t.Name())
	}
	d := shared(t, "2.4")
	_, err := create(t, d, "box", sleeper(), process(func(p *specs.Process) { p.ApparmorProfile = "x" })).NewTask(d.Context(), cio.NullIO)
	if err == nil || !strings.Contains(err.Error(), "process.apparmorProfile: x: AppArmor is not in this kernel") {
		t.Errorf("%v, want an error that says what the kernel lacks", err)
	}
}

// process changes the process of a spec.
func process(change func(*specs.Process)) oci.SpecOpts {
	return specOf(func(s *oci.Spec) { change(s.Process) })
}

// What only root with all capabilities may give: a score that protects from the OOM killer, and limits above
// those that the shim has itself.
func TestGuestPrivileges(t *testing.T) {
	if !mayResource() {
		t.Skipf("%s: needs CAP_SYS_RESOURCE", t.Name())
	}
	d := shared(t, "2.4")
	score := -500
	task := start(t, d, "box", sleeper(), process(func(p *specs.Process) {
		p.OOMScoreAdj = &score
		p.Rlimits = []specs.POSIXRlimit{
			{Type: "RLIMIT_RTPRIO", Soft: 30, Hard: 50},
			{Type: "RLIMIT_MEMLOCK", Soft: 1 << 40, Hard: 1 << 41},
			{Type: "RLIMIT_NOFILE", Soft: 900_000, Hard: 1_000_000},
		}
	}))
	if got := read(t, fmt.Sprintf("/proc/%d/oom_score_adj", task.Pid())); got != "-500" {
		t.Errorf("oom_score_adj is %s, want -500", got)
	}
	_, out := command(t, d, task, "e", "", "sh", "-c", "cat /proc/self/oom_score_adj")
	if out != "-500\n" {
		t.Errorf("oom_score_adj of an exec is %q, want -500", out)
	}
	limits := strings.Join(strings.Fields(read(t, fmt.Sprintf("/proc/%d/limits", task.Pid()))), " ")
	for _, want := range []string{
		"Max realtime priority 30 50", "Max locked memory 1099511627776 2199023255552 bytes", "Max open files 900000 1000000 files",
	} {
		if !strings.Contains(limits, want) {
			t.Errorf("the process has no limit %q: %s", want, limits)
		}
	}
}

// mayResource tries what takes CAP_SYS_RESOURCE, on a process of its own.
func mayResource() bool {
	return exec.Command("sh", "-c", "echo -1 >/proc/self/oom_score_adj").Run() == nil
}
