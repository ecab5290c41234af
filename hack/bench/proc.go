package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// parent is the process that a container's first one is a child of: its shim.
func parent(pid int) (int, error) {
	v, err := field(pid, "status", "PPid")
	if err == nil && v < 2 {
		err = fmt.Errorf("pid %d: its shim has ended", pid)
	}
	return v, err
}

// field is a number in a file of lines of the form "name: number kB" below /proc/PID.
func field(pid int, file, name string) (int, error) {
	path := fmt.Sprintf("/proc/%d/%s", pid, file)
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok && strings.TrimSpace(value) != "" {
			return strconv.Atoi(strings.Fields(value)[0])
		}
	}
	return 0, fmt.Errorf("%s: no %s", path, name)
}

// addMemory adds what a process holds: proc_pid_smaps(5).
func (s *section) addMemory(c contender, pid int) error {
	for _, row := range []struct{ name, file, field string }{
		{"resident (RSS)", "smaps_rollup", "Rss"},
		{"its share (PSS)", "smaps_rollup", "Pss"},
		{"anonymous", "smaps_rollup", "Anonymous"},
		{"threads, count", "status", "Threads"},
	} {
		v, err := field(pid, row.file, row.field)
		if err != nil {
			return err
		}
		s.add(row.name, c, float64(v))
	}
	return nil
}

// load is the load average over 1, 5 and 15 minutes.
type load [3]float64

func (l load) String() string { return fmt.Sprintf("%.2f %.2f %.2f", l[0], l[1], l[2]) }

func loadAverage() (l load) {
	data, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(data), &l[0], &l[1], &l[2])
	return l
}

// A fact is something about the machine that the figures depend on.
type fact struct{ name, value string }

func facts(c *config) []fact {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	list := []fact{
		{"kernel", unix.ByteSliceToString(uts.Release[:]) + " " + runtime.GOARCH},
		{"processor", processor()},
		{"cores", strconv.Itoa(runtime.NumCPU())},
		{"file system of containerd", fileSystem(c.dir)},
		{"mini", version(c.mini, "-v")},
		{"containerd", version(c.tools+"/containerd", "--version")},
	}
	for _, peer := range []struct{ name, path string }{{"runc", c.runc}, {"crun", c.crun}} {
		if peer.path != "" {
			list = append(list, fact{peer.name, version(peer.path, "--version")})
		}
	}
	return append(list, fact{"load average before", loadAverage().String()})
}

// version is the word that looks like one in what a program says about itself.
func version(path, flag string) string {
	out, err := exec.Command(path, flag).Output()
	if err != nil {
		return err.Error()
	}
	words := strings.Fields(string(out))
	for i, word := range words[1:] {
		number := strings.TrimPrefix(word, "v")
		if number != "" && number[0] >= '0' && number[0] <= '9' || words[i] == "Version:" {
			return word
		}
	}
	return string(bytes.TrimSpace(out))
}

func processor() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func fileSystem(dir string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err.Error()
	}
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC:
		// The names of its journals: there is a directory of each in /proc/fs/jbd2.
		if names, _ := os.ReadDir("/proc/fs/jbd2"); len(names) == 0 {
			return "ext4 without a journal"
		}
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	}
	return fmt.Sprintf("%#x", fs.Type)
}
