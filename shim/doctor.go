package shim

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/cgroup"
	"github.com/containerd-mini/mini/shim/internal/container"
	"github.com/containerd-mini/mini/shim/internal/systemd"
)

// A Finding is what doctor says of one thing. Advice is what to do; a finding
// with advice that is not fatal takes away a feature, not the runtime.
type Finding struct {
	What   string
	Advice string
	Fatal  bool
}

// Doctor looks at this machine, and at containerd's configuration file, and
// says what mini would miss.
func Doctor(containerd string) (all []Finding) {
	for _, look := range []func() []Finding{lookKernel, lookPrivileges, lookCgroup, lookSystemd, lookAppArmor, lookSELinux, lookShim} {
		all = append(all, look()...)
	}
	return append(all, lookContainerd(containerd)...)
}

func lookKernel() []Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return []Finding{{What: "uname: " + err.Error(), Fatal: true}}
	}
	out := []Finding{{What: "kernel " + unix.ByteSliceToString(u.Release[:])}}
	if err := container.Kernel(); err != nil {
		out = []Finding{{What: err.Error(), Advice: "boot a newer one", Fatal: true}}
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
			out = append(out, Finding{
				What:   call.name + ": " + err.Error(),
				Advice: "needs Linux " + call.since + ", and a seccomp profile that allows it where this runs in a container", Fatal: true,
			})
		}
	}
	return append(append(out, lookOverlay()...), lookMemfd()...)
}

// lookOverlay tries whether overlayfs takes its layers one by one. It says so of a
// descriptor: before Linux 6.5 it takes any string for now, and refuses it later.
func lookOverlay() []Finding {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return []Finding{{
			What: "overlayfs: " + err.Error(), Advice: "load the module: modprobe overlay; other snapshotters work without it",
		}}
	}
	defer unix.Close(fd)
	err = unix.FsconfigSetFd(fd, "lowerdir+", unix.AT_FDCWD)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		err = unix.FsconfigSetString(fd, "lowerdir+", "/")
	}
	if err != nil {
		return []Finding{{
			What:   "overlayfs takes its layers in one page: " + err.Error(),
			Advice: "Linux 6.8 takes them one by one, and saves a copy of the mount table for each container",
		}}
	}
	return []Finding{{What: "overlayfs takes layers one by one"}}
}

func lookMemfd() []Finding {
	data, err := os.ReadFile("/proc/sys/vm/memfd_noexec")
	if err == nil && strings.TrimSpace(string(data)) == "2" {
		return []Finding{{
			What: "vm.memfd_noexec is 2: no memfd may be executed", Advice: "sysctl vm.memfd_noexec=1: the agent is executed from one", Fatal: true,
		}}
	}
	return nil
}

func lookPrivileges() []Finding {
	if os.Geteuid() != 0 {
		return []Finding{{What: fmt.Sprintf("user %d", os.Geteuid()), Advice: "the shim runs as root, as containerd does", Fatal: true}}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return []Finding{{What: "capget: " + err.Error(), Fatal: true}}
	}
	has := func(c int) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	switch {
	case !has(unix.CAP_SYS_ADMIN):
		return []Finding{{What: "root without CAP_SYS_ADMIN", Advice: "namespaces and mounts need it", Fatal: true}}
	case !has(unix.CAP_SYS_RESOURCE):
		return []Finding{{
			What:   "root without CAP_SYS_RESOURCE",
			Advice: "oom_score_adj cannot be lowered and hard rlimits not be raised: for CRI set restrict_oom_score_adj = true",
		}}
	}
	return []Finding{{What: "root, with its capabilities"}}
}

// wanted are the controllers that specs ask for.
var wanted = []string{"cpu", "cpuset", "io", "memory", "pids"}

func lookCgroup() []Finding {
	return lookCgroupAt(cgroup.Root)
}

func lookCgroupAt(root string) []Finding {
	if found, advice := cgroup.Layout(root); found != "" {
		return []Finding{{
			What: found, Advice: advice + "; to try it first, mount cgroup2 there for containerd alone (unshare -m)", Fatal: true,
		}}
	}
	data, err := os.ReadFile(root + "/cgroup.controllers")
	if err != nil {
		return []Finding{{What: err.Error(), Advice: "this is not the cgroup v2 of a host", Fatal: true}}
	}
	has := strings.Fields(string(data))
	var missing []string
	for _, c := range wanted {
		if !slices.Contains(has, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return []Finding{{
			What:   "cgroup v2 without " + strings.Join(missing, ", "),
			Advice: `limits of these are refused; missing_controllers = "ignore" in the runtime's options passes over them`,
		}}
	}
	return []Finding{{What: "cgroup v2 with " + strings.Join(has, ", ")}}
}

func lookSystemd() []Finding {
	if err := systemd.Booted(); err != nil {
		return []Finding{{What: err.Error(), Advice: "cgroups are made by path; a cgroupsPath of the form slice:prefix:name is refused"}}
	}
	return []Finding{{What: "systemd makes scopes for a cgroupsPath of the form slice:prefix:name"}}
}

func lookAppArmor() []Finding {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || strings.TrimSpace(string(data)) != "Y" {
		return []Finding{{What: "no AppArmor in this kernel", Advice: "a spec with process.apparmorProfile is refused; CRI asks for none here"}}
	}
	return []Finding{{What: "AppArmor is on"}}
}

func lookSELinux() []Finding {
	if !container.SELinux() {
		return []Finding{{What: "no SELinux in this kernel, or /sys/fs/selinux is not mounted", Advice: "a spec with process.selinuxLabel or linux.mountLabel is refused; CRI asks for none here"}}
	}
	mode := "permissive: it denies nothing"
	if data, err := os.ReadFile("/sys/fs/selinux/enforce"); err == nil && strings.TrimSpace(string(data)) == "1" {
		mode = "enforcing"
	}
	return []Finding{{What: "SELinux is on, " + mode}}
}

const shimName = "containerd-shim-mini-v2"

func lookShim() []Finding {
	path, err := exec.LookPath(shimName)
	if err != nil {
		return []Finding{{What: shimName + " is not in PATH", Advice: "make install, to where containerd finds it: /usr/local/bin"}}
	}
	return []Finding{{What: path}}
}
