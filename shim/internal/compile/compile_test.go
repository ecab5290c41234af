package compile

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/tools/txtar"

	"github.com/containerd-mini/mini/shim/internal/program"
)

var update = flag.Bool("update", false, "write what is compiled to the golden files")

// TestGolden compiles testdata/*.txtar: config.json, for an exec also
// process.json, to the listing in plan, or to the message in error. With a file
// called seed there is one.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { golden(t, file) })
	}
}

func golden(t *testing.T, file string) {
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	in := map[string][]byte{}
	for _, f := range ar.Files {
		in[f.Name] = f.Data
	}
	name, got := "plan", ""
	plan, err := compileFiles(t, in)
	if err != nil {
		name, got = "error", err.Error()+"\n"
	} else {
		if _, err := plan.Encode(); err != nil {
			t.Errorf("encode: %v", err)
		}
		got = plan.String()
	}
	if *update {
		kept := ar.Files[:0]
		for _, f := range ar.Files {
			if f.Name != "plan" && f.Name != "error" {
				kept = append(kept, f)
			}
		}
		ar.Files = append(kept, txtar.File{Name: name, Data: []byte(got)})
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := string(in[name]); got != want {
		t.Errorf("%s differs, see -update: %s", name, firstDifference(got, want))
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d:\n%s\nwant:\n%s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

func compileFiles(t *testing.T, in map[string][]byte) (*program.Plan, error) {
	var spec specs.Spec
	if err := json.Unmarshal(in["config.json"], &spec); err != nil {
		t.Fatal(err)
	}
	opt := Options{ID: "c1", Bundle: "/bundle", Cgroup: "/default/c1", Home: "/root", SELinux: true}
	_, opt.Seed = in["seed"]
	if proc, ok := in["process.json"]; ok {
		var p specs.Process
		if err := json.Unmarshal(proc, &p); err != nil {
			t.Fatal(err)
		}
		return Exec(&spec, &p, opt)
	}
	return Container(&spec, opt)
}

func minimal() *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}},
	}
}

// userns puts the container into a user namespace with ten users.
func userns(s *specs.Spec) {
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
}

// TestRefused: what is not there is refused, by the name of its field, and
// nothing else is compiled.
func TestRefused(t *testing.T) {
	yes := true
	for name, change := range map[string]func(*specs.Spec){
		"process: missing":                  func(s *specs.Spec) { s.Process = nil },
		"root: missing":                     func(s *specs.Spec) { s.Root = nil },
		"ociVersion: \"2.0.0\": want 1.x.y": func(s *specs.Spec) { s.Version = "2.0.0" },
		"ociVersion: \"\": want 1.x.y":      func(s *specs.Spec) { s.Version = "" },
		"linux: missing":                    func(s *specs.Spec) { s.Linux = nil },
		"hooks.poststop[1].path: \"x\": not an absolute path": func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/x"}, {Path: "x"}}}
		},
		"hooks.createRuntime[0].timeout: 0: not a number of seconds": func(s *specs.Spec) {
			zero := 0
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x", Timeout: &zero}}}
		},
		"windows: not supported":                       func(s *specs.Spec) { s.Windows = &specs.Windows{} },
		"solaris: not supported":                       func(s *specs.Spec) { s.Solaris = &specs.Solaris{} },
		"vm: not supported":                            func(s *specs.Spec) { s.VM = &specs.VM{} },
		"zos: not supported":                           func(s *specs.Spec) { s.ZOS = &specs.ZOS{} },
		"freebsd: not supported":                       func(s *specs.Spec) { s.FreeBSD = &specs.FreeBSD{} },
		"linux.uidMappings: needs a user namespace":    func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"linux.gidMappings: missing":                   func(s *specs.Spec) { userns(s); s.Linux.GIDMappings = nil },
		"linux.uidMappings[0].size: 0: an empty range": func(s *specs.Spec) { userns(s); s.Linux.UIDMappings[0].Size = 0 },
		"linux.uidMappings[1]: overlaps with [0]": func(s *specs.Spec) {
			userns(s)
			s.Linux.UIDMappings = append(s.Linux.UIDMappings, specs.LinuxIDMapping{ContainerID: 9, HostID: 5, Size: 1})
		},
		"linux.uidMappings: 0: not mapped in the user namespace":            func(s *specs.Spec) { userns(s); s.Linux.UIDMappings[0].ContainerID = 1 },
		"process.user.uid: 10: not mapped in the user namespace":            func(s *specs.Spec) { userns(s); s.Process.User.UID = 10 },
		"process.user.additionalGids: 11: not mapped in the user namespace": func(s *specs.Spec) { userns(s); s.Process.User.AdditionalGids = []uint32{1, 11} },
		"linux.uidMappings: missing: a new user namespace needs them":       func(s *specs.Spec) { userns(s); s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil },
		"linux.netDevices: needs a network namespace":                       func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} },
		"linux.netDevices[a/b]: not the name of a network device": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a/b": {}}
		},
		"linux.netDevices[b].name: \"x\": given twice": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {Name: "x"}, "b": {Name: "x"}}
		},
		"linux.intelRdt: not supported":             func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		"linux.timeOffsets: needs a time namespace": func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} },
		"linux.timeOffsets: \"x\": unknown clock": func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"x": {}}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		},
		"linux.timeOffsets: the time namespace /x has its own": func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/x"})
		},
		"process.apparmorProfile: \"a\\nb\"":                                                func(s *specs.Spec) { s.Process.ApparmorProfile = "a\nb" },
		"process.selinuxLabel: x: SELinux is not in this kernel, or not at /sys/fs/selinux": func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
		"linux.mountLabel: x: SELinux is not in this kernel, or not at /sys/fs/selinux":     func(s *specs.Spec) { s.Linux.MountLabel = "x" },
		"process.scheduler.policy: \"SCHED_ISO\": unknown":                                  func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedISO} },
		"process.scheduler.nice: 20: not between -20 and 19":                                func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 20} },
		"process.scheduler.priority: only SCHED_FIFO and SCHED_RR have one":                 func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Priority: 1} },
		"process.scheduler.runtime: only SCHED_DEADLINE has runtime, deadline and period":   func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedRR, Period: 1} },
		"process.scheduler.flags: \"x\": unknown": func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedRR, Flags: []specs.LinuxSchedulerFlag{"x"}}
		},
		"process.ioPriority.class: \"x\": unknown": func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "x"} },
		"process.ioPriority.priority: 8: not between 0 and 7": func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		},
		"process.execCPUAffinity.final: \"1-\": want a list such as 0-3,7": func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "1-"} },
		"process.consoleSize: 3x65536: a side is above 65535": func(s *specs.Spec) {
			s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Width: 3, Height: 65536}
		},
		"linux.personality.domain: \"x\": unknown": func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "x"} },
		"linux.personality.flags: \"x\": unknown": func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: "LINUX", Flags: []specs.LinuxPersonalityFlag{"x"}}
		},
		"linux.memoryPolicy.mode: \"x\": unknown": func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "x"} },
		"linux.memoryPolicy.flags: \"x\": unknown": func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Flags: []specs.MemoryPolicyFlagType{"x"}}
		},
		"linux.memoryPolicy.nodes: \"3-1\": want a list such as 0-3,7": func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "3-1"}
		},
		"process.commandLine: not supported":       func(s *specs.Spec) { s.Process.CommandLine = "x" },
		"process.user.username: not supported":     func(s *specs.Spec) { s.Process.User.Username = "x" },
		"process.args: missing":                    func(s *specs.Spec) { s.Process.Args = nil },
		"process.cwd: \"x\": not an absolute path": func(s *specs.Spec) { s.Process.Cwd = "x" },
		"process.env[0]: contains NUL":             func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} },
		"process.user.umask: 010000: above 0777":   func(s *specs.Spec) { u := uint32(0o10000); s.Process.User.Umask = &u },
		"process.rlimits[0].type: \"RLIMIT_X\": unknown": func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}}
		},
		"process.capabilities.bounding: \"CAP_X\": unknown": func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_X"}}
		},
		"linux.namespaces: a container without a mount namespace: not supported": func(s *specs.Spec) { s.Linux.Namespaces = nil },
		"linux.namespaces[1].type: \"x\": unknown": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "x"})
		},
		"linux.namespaces[1]: mount: given twice": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.MountNamespace})
		},
		"linux.namespaces[0].path: an existing mount namespace: not supported": func(s *specs.Spec) {
			s.Linux.Namespaces[0].Path = "/proc/1/ns/mnt"
		},
		"mounts[0].options: tmpcopyup: only a tmpfs is copied to": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "proc", Options: []string{"tmpcopyup"}}}
		},
		"mounts[1].options: tmpcopyup below mounts[0]: not supported": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x/", Source: "/", Type: "bind"}, {Destination: "/x/y", Type: "tmpfs", Options: []string{"tmpcopyup"}}}
		},
		"mounts[16]: more than 16 of proc and sysfs in a user namespace: not supported": func(s *specs.Spec) {
			userns(s)
			for range 17 {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc", Type: "proc"})
			}
		},
		"mounts[0].options: remount: not supported": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "tmpfs", Options: []string{"remount"}}}
		},
		"mounts[0].options: idmap: neither the mount nor the container has mappings": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Source: "/", Type: "bind", Options: []string{"rbind", "ridmap"}}}
		},
		"mounts[0].gidMappings: missing": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Source: "/", Type: "bind", UIDMappings: []specs.LinuxIDMapping{{Size: 1}}}}
		},
		"mounts[0].uidMappings: an id-mapped mount that is not a bind mount: not supported": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Source: "x", Type: "tmpfs", UIDMappings: []specs.LinuxIDMapping{{Size: 1}}}}
		},
		"mounts[0].options: \"nsdelegate\": the host's cgroup hierarchy has its own": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "cgroup2", Options: []string{"ro", "nsdelegate"}}}
		},
		"linux.sysctl[user.max_user_namespaces]: needs a user namespace": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"user.max_user_namespaces": "1"}
		},
		"mounts[0].options: \"size=1\": not an option of a bind mount": func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Source: "/", Type: "bind", Options: []string{"size=1"}}}
		},
		"mounts[0].destination: missing": func(s *specs.Spec) { s.Mounts = []specs.Mount{{Type: "tmpfs"}} },
		"mounts[0].type: missing":        func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x"}} },
		"linux.rootfsPropagation: \"x\": unknown": func(s *specs.Spec) {
			s.Linux.RootfsPropagation = "x"
		},
		"linux.devices[0].type: \"x\": want c, u, b or p": func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "x"}}
		},
		"linux.sysctl[kernel.panic]: not namespaced: it would change the host": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.panic": "1"}
		},
		"linux.sysctl[net.ipv4.ip_forward]: needs a network namespace": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		},
		"linux.sysctl[net/../kernel/panic]: not a sysctl": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net/../kernel/panic": "1"}
		},
		"hostname: needs a uts namespace": func(s *specs.Spec) { s.Hostname = "x" },
		"linux.resources.memory.disableOOMKiller: not supported": func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: &yes}}
		},
		"linux.resources.network: not supported": func(s *specs.Spec) {
			c := uint32(1)
			s.Linux.Resources = &specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: &c}}
		},
		"linux.resources.unified: \"../x.y\": not a file of a cgroup": func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"../x.y": "1"}}
		},
		"linux.resources.unified: \"cgroup.procs\": not a resource": func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}
		},
		"linux.seccomp.defaultAction: SCMP_ACT_NOTIFY: not for every call": func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActNotify}
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := minimal()
			change(spec)
			_, err := Container(spec, Options{Bundle: "/b"})
			if err == nil || !strings.HasPrefix(err.Error(), name+": ") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestForkStaysInGroup: until it stands at the gate the child of a Program that forks is found by its process group,
// and by nothing else if its parent was killed before it told of the child.
func TestForkStaysInGroup(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, child, forks := strings.Cut(string(data), "clone3({CLONE_PARENT")
		if !forks {
			continue
		}
		seen++
		before, _, gate := strings.Cut(child, "read(gate")
		if !gate || strings.Contains(before, "setsid(") || strings.Contains(before, "setpgid(") {
			t.Errorf("%s: leaves its group before the gate", file)
		}
	}
	if seen == 0 {
		t.Error("none forks")
	}
}
