package shim

import (
	"os/exec"
	"strings"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/status"
)

// device makes a network device with addresses, for the length of the test.
func (r *rig) device(name string) {
	r.t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		r.t.Skip("needs Debian's iproute2")
	}
	r.t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	// The kernel ends the last one in its own time, unless its peer is removed.
	_ = exec.Command("ip", "link", "del", name+"-peer").Run()
	for _, args := range []string{
		"link add " + name + " type veth peer name " + name + "-peer", "link set " + name + " mtu 1400 address 02:00:00:00:00:07", "link set " + name + " up",
		"addr add 192.0.2.7/24 brd + dev " + name, "-6 addr add 2001:db8::7/64 dev " + name,
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			r.t.Skipf("this machine makes no network devices: ip %s: %s", args, out)
		}
	}
}

func show(t *testing.T, name string) string {
	t.Helper()
	out, _ := exec.Command("ip", "addr", "show", name).CombinedOutput()
	return string(out)
}

// TestNetDevices: a device of the host is the container's, with its addresses, its
// attributes and a name of its own; one that cannot be, or whose container cannot,
// stays what it was.
func TestNetDevices(t *testing.T) {
	r := newRig(t)
	r.applets("ip")
	const name = "mini-test0"
	r.device(name)
	before := show(t, name)
	for _, to := range []string{"", "data0", "data%d"} {
		spec := r.spec("sh", "-c", "ip addr; sleep 100")
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: to}}
		_, err := r.client.Create(t.Context(), r.request("x", spec))
		r.must(err)
		_, err = r.client.Start(t.Context(), &task.StartRequest{ID: "x"})
		r.must(err)
		_, got := r.exec("x", sh("ip addr"))
		want := strings.ReplaceAll(to, "%d", "0")
		if want == "" {
			want = name
		}
		for _, w := range []string{want, "192.0.2.7/24 brd 192.0.2.255", "2001:db8::7/64", "mtu 1400", "02:00:00:00:00:07", "UP"} {
			if !strings.Contains(got, w) {
				t.Errorf("%q: no %q in\n%s", to, w, got)
			}
		}
		if strings.Contains(show(t, name), "192.0.2.7") {
			t.Errorf("it is still on the host")
		}
		r.remove("x")
		r.assertClean()
		r.device(name) // a veth ends with its namespace
	}

	for want, change := range map[string]func(*specs.Spec){
		"linux.netDevices[nothere]: no such device":     func(s *specs.Spec) { s.Linux.NetDevices["nothere"] = specs.LinuxNetDevice{} },
		"linux.netDevices[mini-test0]: lo: file exists": func(s *specs.Spec) { s.Linux.NetDevices[name] = specs.LinuxNetDevice{Name: "lo"} },
		"hooks.createRuntime[0]: /bin/false: exit status 1": func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
		},
		"mount nofs on /x: no such device": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nofs"})
		},
	} {
		spec := r.spec("true")
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: "data0"}}
		change(spec)
		_, err := r.client.Create(t.Context(), r.request("x", spec))
		if err == nil || !strings.HasPrefix(status.Convert(err).Message(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		r.assertClean()
		if after := show(t, name); !sameDevice(before, after) {
			t.Errorf("%s:\n%s\nwas\n%s", want, after, before)
		}
	}
}

// sameDevice compares what is not the kernel's affair.
func sameDevice(a, b string) bool {
	for _, w := range []string{"192.0.2.7/24 brd 192.0.2.255", "2001:db8::7/64", "mtu 1400", "02:00:00:00:00:07", ",UP"} {
		if strings.Contains(a, w) != strings.Contains(b, w) {
			return false
		}
	}
	return true
}
