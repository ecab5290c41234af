package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/cgroup"
	"github.com/containerd-mini/mini/shim/internal/container"
	"github.com/containerd-mini/mini/shim/internal/systemd"
)

// finding is what doctor says of one thing. Advice is what to do; a finding
// with advice that is not fatal takes away a feature, not the runtime.
type finding struct {
	what   string
	advice string
	fatal  bool
}

// Doctor looks at this machine and says what mini would miss. It returns an
// error if no container could be made.
func Doctor(w io.Writer) error {
	var all []finding
	for _, look := range []func() []finding{lookKernel, lookPrivileges, lookCgroup, lookSystemd, lookAppArmor, lookSELinux, lookShim, lookContainerd} {
		all = append(all, look()...)
	}
	fatal := 0
	for _, f := range all {
		mark := "ok   "
		switch {
		case f.fatal:
			mark = "FAIL "
			fatal++
		case f.advice != "":
			mark = "note "
		}
		fmt.Fprintln(w, mark, f.what)
		if f.advice != "" {
			fmt.Fprintln(w, "       ", f.advice)
		}
	}
	if fatal > 0 {
		return fmt.Errorf("%d findings keep containers from running", fatal)
	}
	return nil
}

func lookKernel() []finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return []finding{{what: "uname: " + err.Error(), fatal: true}}
	}
	out := []finding{{what: "kernel " + unix.ByteSliceToString(u.Release[:])}}
	if err := container.Kernel(); err != nil {
		out = []finding{{what: err.Error(), advice: "boot a newer one", fatal: true}}
	}
	// Each is asked with arguments that cannot succeed: ENOSYS is a kernel
	// without it.
	for _, call := range []struct {
		name, since string
		do          func() error
	}{
		{"openat2", "5.6", func() error {
			_, err := unix.Openat2(-1, "x", &unix.OpenHow{Resolve: unix.RESOLVE_BENEATH})
			return err
		}},
		{"close_range", "5.9", func() error { return unix.CloseRange(1, 0, 0) }},
		{"mount_setattr", "5.12", func() error { return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}) }},
		{"fsopen", "5.2", func() error {
			_, err := unix.Fsopen("", ^0)
			return err
		}},
		{"pidfd_open", "5.3", func() error {
			_, err := unix.PidfdOpen(-1, 0)
			return err
		}},
	} {
		if err := call.do(); errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			out = append(out, finding{
				what:   call.name + ": " + err.Error(),
				advice: "needs Linux " + call.since + ", and a seccomp profile that allows it where this runs in a container", fatal: true,
			})
		}
	}
	return append(append(out, lookOverlay()...), lookMemfd()...)
}

// lookOverlay tries whether overlayfs takes its layers one by one. It says so of a
// descriptor: before Linux 6.5 it takes any string for now, and refuses it later.
func lookOverlay() []finding {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return []finding{{
			what: "overlayfs: " + err.Error(), advice: "load the module: modprobe overlay; other snapshotters work without it",
		}}
	}
	defer unix.Close(fd)
	err = unix.FsconfigSetFd(fd, "lowerdir+", unix.AT_FDCWD)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		err = unix.FsconfigSetString(fd, "lowerdir+", "/")
	}
	if err != nil {
		return []finding{{
			what:   "overlayfs takes its layers in one page: " + err.Error(),
			advice: "Linux 6.8 takes them one by one, and saves a copy of the mount table for each container",
		}}
	}
	return []finding{{what: "overlayfs takes layers one by one"}}
}

func lookMemfd() []finding {
	data, err := os.ReadFile("/proc/sys/vm/memfd_noexec")
	if err == nil && strings.TrimSpace(string(data)) == "2" {
		return []finding{{
			what: "vm.memfd_noexec is 2: no memfd may be executed", advice: "sysctl vm.memfd_noexec=1: the agent is executed from one", fatal: true,
		}}
	}
	return nil
}

func lookPrivileges() []finding {
	if os.Geteuid() != 0 {
		return []finding{{what: fmt.Sprintf("user %d", os.Geteuid()), advice: "the shim runs as root, as containerd does", fatal: true}}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return []finding{{what: "capget: " + err.Error(), fatal: true}}
	}
	has := func(c int) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	switch {
	case !has(unix.CAP_SYS_ADMIN):
		return []finding{{what: "root without CAP_SYS_ADMIN", advice: "namespaces and mounts need it", fatal: true}}
	case !has(unix.CAP_SYS_RESOURCE):
		return []finding{{
			what:   "root without CAP_SYS_RESOURCE",
			advice: "oom_score_adj cannot be lowered and hard rlimits not be raised: for CRI set restrict_oom_score_adj = true",
		}}
	}
	return []finding{{what: "root, with its capabilities"}}
}

// wanted are the controllers that specs ask for.
var wanted = []string{"cpu", "cpuset", "io", "memory", "pids"}

func lookCgroup() []finding {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroup.Root, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return []finding{{
			what:   cgroup.Root + " is not cgroup v2",
			advice: "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 there for containerd alone (unshare -m)", fatal: true,
		}}
	}
	data, err := os.ReadFile(cgroup.Root + "/cgroup.controllers")
	if err != nil {
		return []finding{{what: err.Error(), advice: "this is not the cgroup v2 of a host", fatal: true}}
	}
	has := strings.Fields(string(data))
	var missing []string
	for _, c := range wanted {
		if !slices.Contains(has, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return []finding{{
			what:   "cgroup v2 without " + strings.Join(missing, ", "),
			advice: `limits of these are refused; missing_controllers = "ignore" in the runtime's options passes over them`,
		}}
	}
	return []finding{{what: "cgroup v2 with " + strings.Join(has, ", ")}}
}

func lookSystemd() []finding {
	if err := systemd.Booted(); err != nil {
		return []finding{{what: err.Error(), advice: "cgroups are made by path; a cgroupsPath of the form slice:prefix:name is refused"}}
	}
	return []finding{{what: "systemd makes scopes for a cgroupsPath of the form slice:prefix:name"}}
}

func lookAppArmor() []finding {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || strings.TrimSpace(string(data)) != "Y" {
		return []finding{{what: "no AppArmor in this kernel", advice: "a spec with process.apparmorProfile is refused; CRI asks for none here"}}
	}
	return []finding{{what: "AppArmor is on"}}
}

func lookSELinux() []finding {
	if !container.SELinux() {
		return []finding{{what: "no SELinux in this kernel, or /sys/fs/selinux is not mounted", advice: "a spec with process.selinuxLabel or linux.mountLabel is refused; CRI asks for none here"}}
	}
	mode := "permissive: it denies nothing"
	if data, err := os.ReadFile("/sys/fs/selinux/enforce"); err == nil && strings.TrimSpace(string(data)) == "1" {
		mode = "enforcing"
	}
	return []finding{{what: "SELinux is on, " + mode}}
}

const shimName = "containerd-shim-mini-v2"

func lookShim() []finding {
	path, err := exec.LookPath(shimName)
	if err != nil {
		return []finding{{what: shimName + " is not in PATH", advice: "make install, to where containerd finds it: /usr/local/bin"}}
	}
	return []finding{{what: path}}
}

func lookContainerd() []finding {
	path, err := exec.LookPath("containerd")
	if err != nil {
		return []finding{{what: "containerd is not in PATH", advice: "mini serves containerd 1.7 to 2.4"}}
	}
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return []finding{{what: path + " --version: " + err.Error(), advice: "mini serves containerd 1.7 to 2.4"}}
	}
	found := []finding{{what: strings.TrimSpace(string(out))}}
	return append(found, lookConfig("/etc/containerd/config.toml")...)
}

// lookConfig tells whether Kubernetes would find the runtime. ctr and nerdctl
// need no configuration.
func lookConfig(path string) []finding {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return []finding{{what: path + " is not there: ctr and nerdctl work, Kubernetes does not know a handler mini"}}
	}
	if err != nil {
		return []finding{{what: err.Error(), advice: "make it readable"}}
	}
	var c struct {
		Version int `toml:"version"`
	}
	if err := toml.Unmarshal(data, &c); err != nil {
		return []finding{{what: path + ": " + err.Error(), advice: "containerd will not start with it"}}
	}
	if !strings.Contains(string(data), "io.containerd.mini.v2") {
		return []finding{{
			what:   fmt.Sprintf("%s, version %d, names no runtime io.containerd.mini.v2", path, c.Version),
			advice: "for Kubernetes add a runtime handler: README.md, Kubernetes",
		}}
	}
	return []finding{{what: fmt.Sprintf("%s, version %d, has the runtime", path, c.Version)}}
}
