package shim

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestProcessFields asks the kernel what a process has of the fields of its spec
// that no other test asks for.
func TestProcessFields(t *testing.T) {
	for _, user := range []bool{false, true} {
		r := newRig(t)
		r.applets("grep", "id", "touch", "stat", "hostname", "stty")
		spec := r.full(`umask; id -G; touch /tmp/new; stat -c %a /tmp/new; hostname; cat /proc/sys/kernel/domainname
			grep -E "^(Cap|NoNew)" /proc/self/status; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax`)
		spec.Domainname = "inside.example"
		spec.Linux.Sysctl["kernel.msgmax"] = "12345"
		spec.Mounts = append(spec.Mounts, mount("/tmp", "tmpfs", "tmpfs", "mode=1777"))
		umask := uint32(0o027)
		spec.Process.User = specs.User{UID: 7, GID: 8, Umask: &umask, AdditionalGids: []uint32{9, 10}}
		spec.Process.NoNewPrivileges = true
		spec.Process.Capabilities = &specs.LinuxCapabilities{
			Bounding: []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"}, Permitted: []string{"CAP_KILL", "CAP_NET_RAW"},
			Inheritable: []string{"CAP_KILL", "CAP_NET_RAW"}, Ambient: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL", "CAP_NET_RAW"},
		}
		if user {
			r.chown(spec.Root.Path, mappedRoot)
			mapped(spec)
		}
		// An execve leaves to one who is not root what is ambient: capabilities(7).
		want := `0027
8 9 10
640
inside
inside.example
CapInh:	0000000000002020
CapPrm:	0000000000000020
CapEff:	0000000000000020
CapBnd:	0000000000002021
CapAmb:	0000000000000020
NoNewPrivs:	1
7
12345
`
		if got := r.output("x", spec); got != want {
			t.Errorf("user namespace %t: %s\nwant %s", user, got, want)
		}
		r.assertClean()
	}
}

// TestConsoleSize: the terminal has its size when the program begins.
func TestConsoleSize(t *testing.T) {
	r := newRig(t)
	r.applets("stty")
	spec := r.full("stty size")
	spec.Process.Terminal, spec.Process.ConsoleSize = true, &specs.Box{Height: 33, Width: 77}
	out := filepath.Join(r.dir, "out")
	r.must(unix.Mkfifo(out, 0o600))
	req := r.request("x", spec)
	req.Terminal, req.Stdout = true, out
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f, err := os.OpenFile(out, os.O_RDWR, 0) // does not wait for a writer
	r.must(err)
	defer f.Close()
	r.fds++
	_, err = r.client.Create(ctx, req)
	r.must(err)
	_, err = r.client.Start(ctx, &task.StartRequest{ID: "x"})
	r.must(err)
	r.must(f.SetReadDeadline(time.Now().Add(time.Minute)))
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "33 77" {
		t.Errorf("stty says %q, %v", line, err)
	}
	r.remove("x")
	r.assertClean()
}

// mountFlags are what mountinfo and statfs(2) say of each attribute.
var mountFlags = []struct {
	set, clear string
	flag       int64
}{
	{"ro", "rw", unix.ST_RDONLY},
	{"nosuid", "suid", unix.ST_NOSUID},
	{"nodev", "dev", unix.ST_NODEV},
	{"noexec", "exec", unix.ST_NOEXEC},
	{"nosymfollow", "symfollow", 0x2000}, // ST_NOSYMFOLLOW
	{"nodiratime", "diratime", unix.ST_NODIRATIME},
	{"noatime", "relatime", unix.ST_NOATIME},
	{"relatime", "strictatime", unix.ST_RELATIME},
	{"noatime", "atime", unix.ST_NOATIME},
	{"relatime", "noatime", unix.ST_RELATIME},
	{"noatime", "strictatime", unix.ST_NOATIME},
}

// TestMountAttributes: each option of a mount is set and taken away on the mount
// alone, or with an r in front on all below it, too.
func TestMountAttributes(t *testing.T) {
	r := newRig(t)
	tree := filepath.Join(r.dir, "tree")
	r.must(os.Mkdir(tree, 0o755))
	r.must(unix.Mount("tmpfs", tree, "tmpfs", 0, ""))
	t.Cleanup(func() { r.must(unix.Unmount(tree, unix.MNT_DETACH)) })
	for _, dir := range []string{"plain", "all"} {
		r.must(os.Mkdir(filepath.Join(tree, dir), 0o755))
		r.must(unix.Mount("tmpfs", filepath.Join(tree, dir), "tmpfs", 0, ""))
	}
	// One more that has all attributes that there are to take away.
	const every = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | 256 // MS_NOSYMFOLLOW
	r.must(unix.Mount("", filepath.Join(tree, "all"), "", unix.MS_REMOUNT|unix.MS_BIND|every, ""))

	spec := r.spec("sleep", "1000")
	type expect struct {
		path, options string
		flag          int64
		set           bool
	}
	var expected []expect
	// add mounts source, and expects of what is at below in it that a flag is set.
	add := func(source, option, below string, flag int64, set bool) {
		dest := fmt.Sprintf("/m%d", len(spec.Mounts))
		spec.Mounts = append(spec.Mounts, mount(dest, "bind", source, "rbind", option))
		expected = append(expected, expect{dest + below, source + below + " with " + option, flag, set})
	}
	for _, f := range mountFlags {
		has, lacks := "/all", "/plain"
		if f.flag == unix.ST_RELATIME { // which is how a mount is where nothing is said
			has, lacks = lacks, has
		}
		add(tree+lacks, f.set, "", f.flag, true)
		add(tree+has, f.clear, "", f.flag, false)
		add(tree, f.set, lacks, f.flag, false)
		add(tree, f.clear, has, f.flag, true)
		add(tree, "r"+f.set, "", f.flag, true)
		add(tree, "r"+f.set, lacks, f.flag, true)
		add(tree, "r"+f.clear, has, f.flag, false)
	}
	created, err := r.client.Create(t.Context(), r.request("x", spec))
	r.must(err)
	root := fmt.Sprintf("/proc/%d/root", created.Pid)
	for _, e := range expected {
		var st unix.Statfs_t
		r.must(unix.Statfs(root+e.path, &st))
		if got := st.Flags&e.flag != 0; got != e.set {
			t.Errorf("%s: flags %#x, %#x is %t", e.options, st.Flags, e.flag, got)
		}
	}
	r.remove("x")
}
