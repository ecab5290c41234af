package shim

import (
	"os"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc/status"
)

// What is said of containerd's configuration, on a machine that systemd has booted and on another; TestDoctor in
// integration asks real ones.
func TestLookConfig(t *testing.T) {
	const (
		mini    = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.mini]\nruntime_type = 'io.containerd.mini.v2'\n"
		runc    = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n"
		options = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n"
		first   = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.a]\nruntime_type = 'io.containerd.runc.v2'\n" +
			"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.a.options]\nSystemdCgroup = true\n"
		old = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd]\n"
	)
	withDefault := func(name string) string {
		return "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = '" + name + "'\n"
	}
	for _, c := range []struct {
		name, config string
		booted       bool
		want         string // of the last finding
		advice       string // contained; none if empty
	}{
		{"no handler", withDefault("runc") + runc, true, "has no handler of the type", "runtimes.mini]"},
		{"no handler, 1.7", old, true, "has no handler of the type", `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mini]`},
		{"off", "version = 3\ndisabled_plugins = ['io.containerd.cri.v1.runtime']\n", true, "io.containerd.cri.v1.runtime is in disabled_plugins", ""},
		{"no default", withDefault("runc") + mini, true, `default_runtime_name is "runc", and there is no such handler`, `default_runtime_name = "mini"`},
		{
			"cgroupfs under systemd", withDefault("mini") + mini + runc + options + "SystemdCgroup = false\n", true,
			"the cgroup driver cgroupfs, by handler runc; systemd has booted", `SystemdCgroup = true in [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]`,
		},
		{"options without the word", withDefault("mini") + mini + runc + options + "Root = ''\n", true, "the cgroup driver cgroupfs, by handler runc; systemd has booted", "SystemdCgroup = true"},
		{"systemd under systemd", withDefault("mini") + mini + runc + options + "SystemdCgroup = true\n", true, "the cgroup driver systemd, by handler runc", ""},
		{"cgroupfs without systemd", withDefault("runc") + mini + runc + options + "Root = ''\n", false, "the cgroup driver cgroupfs, by handler runc", ""},
		{"systemd without systemd", withDefault("runc") + mini + runc + options + "SystemdCgroup = true\n", false, "pods are refused", "SystemdCgroup = false"},
		{"the default one is asked first", withDefault("runc") + mini + first + runc + options + "Root = ''\n", false, "cgroupfs, by handler runc", ""},
		{"the first one by name is asked next", withDefault("mini") + mini + runc + options + first, true, "systemd, by handler a", ""},
		{"no options", withDefault("mini") + mini + runc, true, "that it finds itself: systemd", ""},
		{"1.7", old + "default_runtime_name = 'm'\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.m]\nruntime_type = 'io.containerd.mini.v2'\n", true, "cgroupDriver in the kubelet's", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var parsed containerdConfig
			if err := toml.Unmarshal([]byte(c.config), &parsed); err != nil {
				t.Fatal(err)
			}
			all := lookConfig("config.toml", parsed, c.booted)
			got := all[len(all)-1]
			if !strings.Contains(got.What, c.want) || !strings.Contains(got.Advice, c.advice) || (c.advice == "") != (got.Advice == "") {
				t.Errorf("%+v, want %q, %q", got, c.want, c.advice)
			}
		})
	}
}

// Where the machine has the hybrid layout, or cgroup v1, one sentence says so, from Create and from doctor,
// and what to do.
func TestHybridLayout(t *testing.T) {
	if cgroupRoot() == "" {
		t.Skip("needs cgroup v2")
	}
	for _, hybrid := range []bool{true, false} {
		root, err := os.MkdirTemp("/dev/shm", "mini-cgroup-") // the layout is known by its tmpfs
		if err != nil {
			t.Skip("needs /dev/shm: ", err)
		}
		t.Cleanup(func() { os.RemoveAll(root) })
		want := root + " is not cgroup2 but the layout of cgroup v1"
		if hybrid {
			if err := os.Symlink(cgroupRoot(), root+"/unified"); err != nil {
				t.Fatal(err)
			}
			want = root + " is not cgroup2 but the hybrid layout: cgroup2 is at " + root + "/unified, the controllers are in cgroup v1"
		}
		const advice = "boot with cgroup v2 alone: systemd.unified_cgroup_hierarchy=1 on the kernel's command line"

		found := lookCgroupAt(root)
		if len(found) != 1 || !found[0].Fatal || found[0].What != want || !strings.HasPrefix(found[0].Advice, advice) {
			t.Errorf("doctor: %+v", found)
		}
		r := newRigAt(t, root)
		_, err = r.client.Create(t.Context(), r.request("x", r.spec("true")))
		if text := status.Convert(err).Message(); !strings.HasPrefix(text, want+"; "+advice) {
			t.Errorf("Create: %v", err)
		}
		r.events.await(t)
		r.assertClean()
	}
}
