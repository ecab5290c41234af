package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A process is one line of a process list.
type process struct {
	pid, parent int
	zombie      bool
	command     string
	cgroup      string
}

func (p process) String() string {
	state := ""
	if p.zombie {
		state = " (zombie)"
	}
	return fmt.Sprintf("pid %d%s, parent %d, cgroup %s: %s", p.pid, state, p.parent, p.cgroup, p.command)
}

// descendants lists the processes below root, without it, parents first.
func descendants(root int) []process {
	children := make(map[int][]process)
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if p, ok := readProcess(dir); ok {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	all := slices.Clone(children[root])
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i].pid]...)
	}
	return all
}

// readProcess is false for a process that has ended meanwhile.
func readProcess(dir string) (p process, ok bool) {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, false
	}
	// proc_pid_stat(5): pid (comm) state ppid; comm may hold anything, also ')'.
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 2 {
		return p, false
	}
	p.pid, _ = strconv.Atoi(filepath.Base(dir))
	p.parent, _ = strconv.Atoi(fields[1])
	p.zombie = fields[0] == "Z" || fields[0] == "X"
	cmdline, _ := os.ReadFile(dir + "/cmdline")
	p.command = string(bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	if p.command == "" {
		p.command = string(stat[bytes.IndexByte(stat, '(') : end+1])
	}
	cgroup, _ := os.ReadFile(dir + "/cgroup")
	for line := range strings.Lines(string(cgroup)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			p.cgroup = strings.TrimSpace(path)
		}
	}
	return p, true
}

// ShimPid is the process of the shim that was started for container id.
func (d *Daemon) ShimPid(id string) int {
	d.t.Helper()
	return d.ShimPidIn(d.Namespace, id)
}

// ShimPidIn is ShimPid in another namespace of containerd.
func (d *Daemon) ShimPidIn(namespace, id string) int {
	d.t.Helper()
	for _, p := range descendants(os.Getppid()) {
		words := strings.Fields(p.command)
		if !p.zombie && len(words) > 0 && strings.HasPrefix(filepath.Base(words[0]), "containerd-shim-") &&
			follows(words, "-namespace", namespace) && follows(words, "-id", id) {
			return p.pid
		}
	}
	d.t.Fatalf("%s: no shim", id)
	return 0
}

// Shims counts the shims that run, of all namespaces.
func (d *Daemon) Shims() int {
	n := 0
	for _, p := range descendants(os.Getppid()) {
		if !p.zombie && strings.HasPrefix(filepath.Base(strings.Fields(p.command + " ")[0]), "containerd-shim-") {
			n++
		}
	}
	return n
}

// follows tells whether flag and value stand side by side in words.
func follows(words []string, flag, value string) bool {
	i := slices.Index(words, flag)
	return i >= 0 && i+1 < len(words) && words[i+1] == value
}

// Descriptors lists what the descriptors of a process are.
func Descriptors(pid int) []string {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	var all []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			all = append(all, target)
		}
	}
	return all
}

// mountpoints lists the mounts of this namespace as "mountpoint fstype".
func mountpoints() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var all []string
	for line := range strings.Lines(string(data)) {
		// proc_pid_mountinfo(5): the fifth field, and the first one after the hyphen.
		left, right, _ := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) > 4 && len(r) > 0 {
			all = append(all, l[4]+" "+r[0])
		}
	}
	return all
}

// cgroup2 is where the machine has cgroup v2, seen from the namespace of the caller.
func cgroup2() string {
	mounts := mountpoints()
	for i := len(mounts) - 1; i >= 0; i-- {
		if path, found := strings.CutSuffix(mounts[i], " cgroup2"); found {
			return path
		}
	}
	return cgroupRoot
}

// cgroupsBelow lists the cgroups strictly below dir, children first.
func cgroupsBelow(dir string) []string {
	var all []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			path := filepath.Join(dir, e.Name())
			all = append(append(all, cgroupsBelow(path)...), path)
		}
	}
	return all
}

// removeCgroups removes the cgroups whose name begins with prefix, which are empty by now.
func removeCgroups(prefix string) error {
	tops, _ := filepath.Glob(filepath.Join(cgroup2(), prefix+"*"))
	for _, top := range tops {
		for _, dir := range append(cgroupsBelow(top), top) {
			if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
	}
	return nil
}
