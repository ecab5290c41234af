package shim

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/shim/internal/compile"
)

// specMountOptions are all that runtime-spec config.md#linux-mount-options names.
var specMountOptions = strings.Fields(`async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev
	nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime
	relatime remount rexec rnoatime rnodiratime rnoexec rnodev rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro
	rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup
	unbindable idmap ridmap`)

// byKernel are those that mini hands to the file system, which knows them or not.
var byKernel = []string{"iversion", "noiversion"}

// TestFeaturesAreWhole: of each thing that features.md knows mini says whether it
// is there.
func TestFeaturesAreWhole(t *testing.T) {
	silent := []string{
		"annotations",               // of a program beneath, of which there is none
		"linux.intelRdt.schemata",   // parts of what
		"linux.intelRdt.monitoring", // is not there
	}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if v.IsZero() != slices.Contains(silent, path) {
			t.Errorf("%s: %v", path, v)
		}
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return
		}
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			walk(strings.TrimPrefix(path+"."+name, "."), v.Field(i))
		}
	}
	walk("", reflect.ValueOf(Features()))
}

// TestFeaturesAreTrue: what is announced is compiled, and what runtime-spec has
// besides is refused.
func TestFeaturesAreTrue(t *testing.T) {
	f := Features()
	spec := func() *specs.Spec {
		ids := []specs.LinuxIDMapping{{Size: 1}}
		return &specs.Spec{
			Version: specs.Version, Root: &specs.Root{Path: "rootfs"},
			Process: &specs.Process{Args: []string{"/x"}, Cwd: "/"},
			Linux: &specs.Linux{
				UIDMappings: ids, GIDMappings: ids,
				Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.UserNamespace}},
			},
		}
	}
	check := func(what string, announced bool, change func(*specs.Spec)) {
		t.Helper()
		s := spec()
		change(s)
		if _, err := compile.Container(s, compile.Options{Bundle: "/b", Cgroup: "/c", SELinux: true}); (err == nil) != announced {
			t.Errorf("%s: announced is %t, compiled: %v", what, announced, err)
		}
	}

	for _, ns := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace,
		specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace, "new",
	} {
		check(string(ns), slices.Contains(f.Linux.Namespaces, string(ns)), func(s *specs.Spec) {
			if ns != specs.MountNamespace && ns != specs.UserNamespace {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: ns})
			}
		})
	}
	hook := []specs.Hook{{Path: "/x"}}
	for name, h := range map[string]specs.Hooks{
		"prestart": {Prestart: hook}, "createRuntime": {CreateRuntime: hook}, "createContainer": {CreateContainer: hook},
		"startContainer": {StartContainer: hook}, "poststart": {Poststart: hook}, "poststop": {Poststop: hook},
	} {
		check(name, slices.Contains(f.Hooks, name), func(s *specs.Spec) { s.Hooks = &h })
	}
	for _, option := range f.MountOptions {
		if !slices.Contains(specMountOptions, option) && !slices.Contains(specMountOptions, option[1:]) {
			t.Errorf("%s: announced, and not of the spec", option)
		}
	}
	for _, option := range specMountOptions {
		announced := slices.Contains(f.MountOptions, option)
		if slices.Contains(byKernel, option) {
			continue
		}
		// Of a bind mount, or of a file system.
		bind := spec()
		bind.Mounts = []specs.Mount{{Destination: "/x", Source: "/x", Type: "bind", Options: []string{"bind", option}}}
		_, berr := compile.Container(bind, compile.Options{Bundle: "/b"})
		tmpfs := spec()
		tmpfs.Mounts = []specs.Mount{{Destination: "/x", Source: "/x", Type: "tmpfs", Options: []string{option}}}
		_, terr := compile.Container(tmpfs, compile.Options{Bundle: "/b"})
		if announced != (berr == nil || terr == nil) {
			t.Errorf("%s: announced is %t, compiled: %v, %v", option, announced, berr, terr)
		}
	}
	for _, name := range append(f.Linux.Capabilities, "CAP_NEW") {
		check(name, name != "CAP_NEW", func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{name}}
		})
	}
	for _, mode := range append(f.Linux.MemoryPolicy.Modes, "MPOL_NEW") {
		check(mode, mode != "MPOL_NEW", func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MemoryPolicyModeType(mode), Nodes: "0"}
		})
	}
	for _, flag := range append(f.Linux.MemoryPolicy.Flags, "MPOL_F_NEW") {
		check(flag, flag != "MPOL_F_NEW", func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MemoryPolicyFlagType(flag)}}
		})
	}
	for _, action := range append(f.Linux.Seccomp.Actions, "SCMP_ACT_NEW") {
		check(action, action != "SCMP_ACT_NEW", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, ListenerPath: "/listener",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"getcwd"}, Action: specs.LinuxSeccompAction(action)}},
			}
		})
	}
	for _, op := range append(f.Linux.Seccomp.Operators, "SCMP_CMP_NEW") {
		check(op, op != "SCMP_CMP_NEW", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{
					Names: []string{"getcwd"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: specs.LinuxSeccompOperator(op)}},
				}},
			}
		})
	}
	for _, flag := range append(f.Linux.Seccomp.SupportedFlags, "SECCOMP_FILTER_FLAG_NEW") {
		check(flag, flag != "SECCOMP_FILTER_FLAG_NEW", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlag(flag)}, ListenerPath: "/listener",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"getcwd"}, Action: specs.ActNotify}},
			}
		})
	}
	check("apparmor", *f.Linux.Apparmor.Enabled, func(s *specs.Spec) { s.Process.ApparmorProfile = "x" })
	check("selinux", *f.Linux.Selinux.Enabled, func(s *specs.Spec) { s.Process.SelinuxLabel = "x" })
	check("intelRdt", *f.Linux.IntelRdt.Enabled, func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} })
	check("netDevices", *f.Linux.NetDevices.Enabled, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}}
	})
	check("idmap", *f.Linux.MountExtensions.IDMap.Enabled, func(s *specs.Spec) {
		s.Mounts = []specs.Mount{{Destination: "/x", Source: "/x", Type: "bind", Options: []string{"rbind", "ridmap"}}}
	})
}
