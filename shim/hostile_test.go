package shim

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/containerd-mini/mini/shim/internal/agent"
)

// attack is an image, a spec or both that once led out of a container of runc
// or crun. Whatever Create says to it, the host's files stay as they are.
type attack struct {
	name    string // the CVE, and which form of it
	image   func(a *arena)
	spec    func(a *arena, s *specs.Spec)
	script  string // what the container runs, with $host in it
	tty     bool
	refused string // part of the error of Create; "" where it is to succeed
	out     string // what the script prints
}

// arena is where an attack happens: a root, and beside it a part of the host.
type arena struct {
	*rig
	root, host string
	tty        bool
}

// outside leads from the root of the image to a file of the host, up and over.
func (a *arena) outside(name string) string {
	return strings.Repeat("../", 40) + strings.TrimPrefix(filepath.Join(a.host, name), "/")
}

func (a *arena) symlink(target, name string) {
	a.must(os.MkdirAll(filepath.Dir(filepath.Join(a.root, name)), 0o755))
	a.must(os.Symlink(target, filepath.Join(a.root, name)))
}

func (a *arena) mkdir(name string) { a.must(os.MkdirAll(filepath.Join(a.root, name), 0o755)) }

func (a *arena) write(name, content string) {
	a.must(os.MkdirAll(filepath.Dir(filepath.Join(a.root, name)), 0o755))
	a.must(os.WriteFile(filepath.Join(a.root, name), []byte(content), 0o644))
}

func newArena(t *testing.T) *arena {
	r := newRig(t)
	// As the shim does, where somebody has made it ignore them.
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT} {
		if signal.Ignored(sig) {
			r.must(agent.Deafen(sig))
		}
	}
	r.must(agent.Deafen(sigCancel))
	a := &arena{rig: r, root: filepath.Join(r.dir, "rootfs"), host: filepath.Join(r.dir, "host")}
	for _, dir := range []string{"empty", "dir/sub", "proc/sys/net/ipv4", "proc/self/attr"} {
		a.must(os.MkdirAll(filepath.Join(a.host, dir), 0o755))
	}
	for name, content := range map[string]string{
		"secret": "SECRET\n", "console": "", "null": "", "dir/sub/file": "x",
		"proc/sys/net/ipv4/ip_forward": "fake\n", "proc/self/attr/exec": "",
	} {
		a.must(os.WriteFile(filepath.Join(a.host, name), []byte(content), 0o644))
	}
	return a
}

// picture is all there is to see of the host's part.
func (a *arena) picture() string {
	a.t.Helper()
	var b strings.Builder
	a.must(filepath.WalkDir(a.host, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		var sum [32]byte
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = sha256.Sum256(data)
		}
		fmt.Fprintf(&b, "%s dev %d mode %#o uid %d links %d changed %d %x\n", path, st.Dev, st.Mode, st.Uid, st.Nlink, st.Ctim.Nano(), sum)
		return nil
	}))
	return b.String()
}

// dockerCaps are what container engines give by default.
var dockerCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

func capabilities(names ...string) *specs.LinuxCapabilities {
	names = append(names, dockerCaps...)
	return &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
}

// spec is the container of an attack: root, with the capabilities that engines
// give, and nothing mounted but /proc.
func (a *arena) spec(script string) *specs.Spec {
	s := a.rig.spec("sh", "-c", "host="+a.host+"; "+script)
	s.Process.Capabilities = capabilities()
	return s
}

// launch creates and starts a container and returns what it has printed when it
// has ended.
func (a *arena) launch(id string, s *specs.Spec) (string, error) {
	a.t.Helper()
	req := a.request(id, s)
	out := filepath.Join(a.dir, "out-"+id)
	req.Stdout, req.Stderr = "file://"+out, "file://"+out
	if a.tty {
		req.Terminal, req.Stdout, req.Stderr = true, "", ""
	}
	if _, err := a.client.Create(a.t.Context(), req); err != nil {
		return "", err
	}
	if _, err := a.client.Start(a.t.Context(), &task.StartRequest{ID: id}); err != nil {
		a.remove(id)
		return "", err
	}
	if _, err := a.client.Wait(a.t.Context(), &task.WaitRequest{ID: id}); err != nil {
		a.t.Fatal(err)
	}
	a.remove(id)
	data, err := os.ReadFile(out)
	if err != nil && !a.tty {
		a.t.Fatal(err)
	}
	return string(data), nil
}

func mount(dest, fstype, source string, options ...string) specs.Mount {
	return specs.Mount{Destination: dest, Type: fstype, Source: source, Options: options}
}

func addMount(m ...specs.Mount) func(*arena, *specs.Spec) {
	return func(_ *arena, s *specs.Spec) { s.Mounts = append(s.Mounts, m...) }
}

func addNamespace(s *specs.Spec, types ...specs.LinuxNamespaceType) {
	for _, t := range types {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t})
	}
}

const (
	loop     = "too many levels of symbolic links"
	notThere = "no such file or directory"
)

var attacks = []attack{
	// A /proc that is not the kernel's tells lies: which AppArmor profile is
	// on, where sysctls are.
	{
		name: "CVE-2019-19921/proc-is-a-symlink", refused: "mount point /proc: " + loop,
		image: func(a *arena) { a.mkdir("elsewhere"); a.symlink("/elsewhere", "proc") },
	},
	{
		name: "CVE-2023-27561/proc-is-a-symlink-out", refused: "mount point /proc: " + loop,
		image: func(a *arena) { a.symlink(a.outside("proc"), "proc") },
	},
	{
		name: "CVE-2023-28642/sys-is-a-symlink", refused: "mount point /sys: " + loop,
		image: func(a *arena) { a.symlink(a.outside("proc"), "sys") },
		spec:  addMount(mount("/sys", "sysfs", "sysfs", "ro")),
	},
	{
		name: "CVE-2019-16884/volume-over-proc", script: "cat /real/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_forward", out: "1\nfake\n",
		spec: func(a *arena, s *specs.Spec) {
			addNamespace(s, specs.NetworkNamespace)
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			s.Mounts = append(s.Mounts, mount("/proc", "bind", a.host+"/proc", "rbind"), mount("/real", "proc", "proc"))
		},
	},
	{
		name: "CVE-2025-52881/sysctl-through-a-symlink", script: "cat /real/sys/net/ipv4/ip_forward", out: "1\n",
		image: func(a *arena) { a.symlink(a.outside("proc/sys"), "proc/sys") },
		spec: func(_ *arena, s *specs.Spec) {
			addNamespace(s, specs.NetworkNamespace)
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			s.Mounts = []specs.Mount{mount("/real", "proc", "proc")}
		},
	},
	// Masks.
	{
		name: "CVE-2025-31133/null-is-a-symlink", script: "[ -c /etc/mask ] && echo masked; echo x >/etc/mask; cat /etc/mask", out: "masked\n",
		image: func(a *arena) { a.write("etc/mask", "visible\n"); a.symlink(a.outside("null"), "dev/null") },
		spec:  func(_ *arena, s *specs.Spec) { s.Linux.MaskedPaths = []string{"/etc/mask"} },
	},
	{
		name: "CVE-2025-31133/null-is-another-device", script: "cat /etc/mask; echo ok", out: "ok\n",
		image: func(a *arena) {
			a.write("etc/mask", "visible\n")
			a.mkdir("dev")
			a.must(unix.Mknod(a.root+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
		},
		spec: func(_ *arena, s *specs.Spec) { s.Linux.MaskedPaths = []string{"/etc/mask"} },
	},
	{
		name: "CVE-2025-31133/masked-path-is-a-symlink", script: "echo ok", out: "ok\n",
		image: func(a *arena) { a.symlink(a.outside("secret"), "file"); a.symlink(a.outside("dir"), "dir") },
		spec: func(_ *arena, s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/file", "/dir"}
			s.Linux.ReadonlyPaths = []string{"/file", "/dir"}
		},
	},
	// The console, and where its master comes from.
	{
		name: "CVE-2025-52565/console-is-a-symlink", script: "echo x >/dev/console", tty: true,
		image: func(a *arena) { a.symlink(a.outside("console"), "dev/console") },
		spec:  addMount(mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666")),
	},
	{
		name: "CVE-2025-52565/console-is-a-symlink-to-proc", script: "echo x >/dev/console", tty: true,
		image: func(a *arena) { a.symlink("/proc/self/environ", "dev/console") },
		spec:  addMount(mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666")),
	},
	{
		name: "CVE-2025-52565/ptmx-is-a-symlink", refused: loop, tty: true,
		image: func(a *arena) { a.symlink(a.outside("console"), "dev/pts/ptmx") },
	},
	{
		name: "CVE-2025-52565/ptmx-is-a-fifo", refused: "inappropriate ioctl", tty: true,
		image: func(a *arena) { a.mkdir("dev/pts"); a.must(unix.Mkfifo(a.root+"/dev/pts/ptmx", 0o666)) },
	},
	// /dev, and what is in it: CVE-2026-41579 of runc; CVE-2026-47766, CVE-2026-88264
	// and CVE-2026-88265 of crun.
	{
		name: "CVE-2026-41579/dev-is-a-symlink-out", refused: "/dev: " + notThere,
		image: func(a *arena) { a.symlink(a.outside("empty"), "dev") },
	},
	{
		name: "CVE-2026-41579/dev-is-an-absolute-symlink", refused: "/dev: " + notThere,
		image: func(a *arena) { a.symlink(a.host+"/empty", "dev") },
	},
	{
		name: "CVE-2026-41579/dev-tmpfs-on-a-symlink", script: "[ -c $host/empty/null ] && echo ok", out: "ok\n",
		image: func(a *arena) { a.symlink(a.outside("empty"), "dev") },
		spec:  addMount(mount("/dev", "tmpfs", "tmpfs", "mode=755")),
	},
	{
		name: "CVE-2026-41579/device-in-a-symlink", refused: notThere,
		image: func(a *arena) { a.symlink(a.outside("empty"), "dev/net") },
		spec: func(_ *arena, s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200}}
		},
	},
	{
		name: "CVE-2026-41579/device-is-a-symlink", script: "echo ok", out: "ok\n",
		image: func(a *arena) {
			for _, name := range []string{"null", "zero", "tty", "random", "urandom", "full", "fd", "stdin", "ptmx"} {
				a.symlink(a.outside("null"), "dev/"+name)
			}
		},
		spec: func(_ *arena, s *specs.Spec) {
			uid, mode := uint32(1000), os.FileMode(0o666)
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, UID: &uid, FileMode: &mode}}
		},
	},
	// Mount points: a symlink leads to where it leads in the root, be it that
	// this has to be made.
	{
		name: "CVE-2021-30465/mount-point-is-a-symlink", script: "echo ok >$host/dir/new; cat /data/new", out: "ok\n",
		image: func(a *arena) { a.symlink(a.outside("dir"), "data") },
		spec:  addMount(mount("/data", "tmpfs", "tmpfs")),
	},
	{
		name: "CVE-2021-30465/source-has-the-symlink", script: "cat $host/dir/sub/file", out: "x",
		spec: func(a *arena, s *specs.Spec) {
			volume := filepath.Join(a.dir, "volume")
			a.must(os.MkdirAll(volume, 0o755))
			a.must(os.Symlink(a.outside("dir"), volume+"/inner"))
			s.Mounts = append(s.Mounts, mount("/data", "bind", volume, "rbind"), mount("/data/inner", "bind", a.host+"/dir", "rbind"))
		},
	},
	{
		name: "CVE-2024-45310/missing-directories-below-a-symlink", script: "[ -d $host/empty/a/b/c ] && echo ok", out: "ok\n",
		image: func(a *arena) { a.symlink(a.outside("empty"), "data") },
		spec:  addMount(mount("/data/a/b/c", "tmpfs", "tmpfs")),
	},
	{
		name: "CVE-2024-45310/missing-file-below-a-symlink", script: "cat $host/empty/file", out: "SECRET\n",
		image: func(a *arena) { a.symlink(a.outside("empty"), "data") },
		spec: func(a *arena, s *specs.Spec) {
			s.Mounts = append(s.Mounts, mount("/data/file", "bind", a.host+"/secret", "bind"))
		},
	},
	{
		name: "CVE-2024-45310/missing-file-is-a-dangling-symlink", script: "cat $host/empty/made", out: "SECRET\n",
		image: func(a *arena) { a.symlink(a.outside("empty/made"), "file") },
		spec: func(a *arena, s *specs.Spec) {
			s.Mounts = append(s.Mounts, mount("/file", "bind", a.host+"/secret", "bind"))
		},
	},
	{
		name: "CVE-2024-45310/dots", script: "cat /made/file", out: "x",
		spec: func(a *arena, s *specs.Spec) {
			s.Mounts = append(s.Mounts, mount("/x/../../../../made", "bind", a.host+"/dir/sub", "rbind", "ro"))
		},
	},
	{
		name: "CVE-2024-45310/link-of-proc", refused: "mount point /data/x: " + loop,
		image: func(a *arena) { a.symlink("/proc/self/root"+a.host+"/empty", "data") },
		spec:  addMount(mount("/data/x", "tmpfs", "tmpfs")),
	},
	{
		name: "CVE-2024-45310/link-into-proc", refused: "mount point /data/x: " + notThere,
		image: func(a *arena) { a.symlink("/proc/made", "data") },
		spec:  addMount(mount("/data/x", "tmpfs", "tmpfs")),
	},
	{
		name: "CVE-2024-45310/links-without-end", refused: "mount point /data/x: " + loop,
		image: func(a *arena) { a.symlink("y/../data", "data") },
		spec:  addMount(mount("/data/x", "tmpfs", "tmpfs")),
	},
	// The working directory.
	{
		name: "CVE-2024-45310/missing-cwd-below-a-symlink", refused: notThere,
		image: func(a *arena) { a.symlink(a.outside("empty"), "data") },
		spec:  func(_ *arena, s *specs.Spec) { s.Process.Cwd = "/data/a/b" },
	},
	{
		name: "CVE-2024-21626/cwd-is-a-symlink-to-a-descriptor", refused: loop,
		image: func(a *arena) { a.symlink("/proc/self/fd/0", "work") },
		spec:  func(_ *arena, s *specs.Spec) { s.Process.Cwd = "/work" },
	},
	{
		name: "CVE-2024-21626/cwd-is-a-symlink-out", refused: notThere,
		// A name that the way to the outside does not begin with: that would be a loop.
		image: func(a *arena) { a.symlink(a.outside("dir"), "the-way-out") },
		spec:  func(_ *arena, s *specs.Spec) { s.Process.Cwd = "/the-way-out" },
	},
	// What identity is taken from.
	{
		name: "CVE-2026-30892/user-by-name", refused: "process.user.username: ",
		spec: func(_ *arena, s *specs.Spec) { s.Process.User.Username = "1000" },
	},
	{
		// setresuid(2) takes it for "leave it as it is": root.
		name: "CVE-2026-30892/uid-is-minus-one", refused: "process.user.uid: ",
		spec: func(_ *arena, s *specs.Spec) { s.Process.User.UID = ^uint32(0) },
	},
	{
		name: "CVE-2026-30892/gid-is-minus-one", refused: "process.user.gid: ",
		spec: func(_ *arena, s *specs.Spec) { s.Process.User.GID = ^uint32(0) },
	},
	{
		name: "CVE-2026-30892/passwd-is-a-symlink-out", script: "echo $HOME", out: "/\n",
		image: func(a *arena) {
			a.must(os.WriteFile(a.host+"/passwd", []byte("root:x:0:0::/leaked:/bin/sh\n"), 0o644))
			a.symlink(a.outside("passwd"), "etc/passwd")
		},
	},
	// A number of bytes that did not fit its header; here there is a limit.
	{
		name: "CVE-2021-43784/environment-of-20-MB", refused: "at most",
		spec: func(_ *arena, s *specs.Spec) {
			for range 200 {
				s.Process.Env = append(s.Process.Env, "A="+strings.Repeat("x", 100<<10))
			}
		},
	},
	{
		name: "CVE-2021-43784/too-many-masked-paths", refused: "system calls, at most",
		spec: func(_ *arena, s *specs.Spec) {
			for i := range 10000 {
				s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, fmt.Sprintf("/no/such/%d", i))
			}
		},
	},
	{
		name: "CVE-2021-43784/many-masked-paths", script: "echo ok", out: "ok\n",
		spec: func(_ *arena, s *specs.Spec) {
			for i := range 5000 {
				s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, fmt.Sprintf("/no/such/%d", i))
			}
		},
	},
	{
		name: "CVE-2021-43784/groups", refused: "set groups: invalid argument",
		spec: func(_ *arena, s *specs.Spec) { s.Process.User.AdditionalGids = make([]uint32, 70000) },
	},
	{
		name: "CVE-2022-29162/signals", out: "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n",
		image: func(a *arena) { a.symlink("busybox", "bin/grep") },
		spec: func(_ *arena, s *specs.Spec) {
			s.Process.Args = []string{"grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"}
		},
	},
	// Capabilities are those of the spec and no others.
	{
		name: "CVE-2022-29162/inheritable", script: "grep -E 'Cap(Inh|Amb)' /proc/self/status", out: "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n",
		image: func(a *arena) { a.symlink("busybox", "bin/grep") },
	},
	{
		name: "CVE-2022-29162/with-a-filter", script: "grep Cap /proc/self/status", out: capLines,
		image: func(a *arena) { a.symlink("busybox", "bin/grep") },
		spec: func(_ *arena, s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"acct"}, Action: specs.ActErrno}},
			}
		},
	},
	// The program is a link to whoever runs it.
	{
		name: "CVE-2019-5736/program-is-self-exe", script: "",
		spec: func(_ *arena, s *specs.Spec) { s.Process.Args = []string{"/proc/self/exe"} },
	},
	{
		name: "CVE-2019-5736/interpreter-is-self-exe",
		image: func(a *arena) {
			a.write("bin/evil", "#!/proc/self/exe\n")
			a.must(os.Chmod(a.root+"/bin/evil", 0o755))
		},
		spec: func(_ *arena, s *specs.Spec) { s.Process.Args = []string{"evil"} },
	},
}

const capLines = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n" +
	"CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n"

// TestHostile mounts each attack and sees it fail.
func TestHostile(t *testing.T) {
	for _, at := range attacks {
		t.Run(at.name, func(t *testing.T) {
			a := newArena(t)
			a.tty = at.tty
			if at.image != nil {
				at.image(a)
			}
			s := a.spec(at.script)
			if at.spec != nil {
				at.spec(a, s)
			}
			before := a.picture()
			out, err := a.launch("x", s)
			switch {
			case at.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case at.refused != "" && (err == nil || !strings.Contains(status.Convert(err).Message(), at.refused)):
				t.Errorf("error %v, want %q", err, at.refused)
			case out != at.out:
				t.Errorf("it printed %q, want %q", out, at.out)
			}
			if after := a.picture(); after != before {
				t.Errorf("the host has changed:\n%s\nit was:\n%s", after, before)
			}
			a.assertClean()
		})
	}
}

// TestHostileCwd is CVE-2024-21626: a descriptor of a directory of the host that
// somebody left open in the shim is no way out, whatever its number.
func TestHostileCwd(t *testing.T) {
	a := newArena(t)
	leaked, err := unix.Open(a.host, unix.O_PATH|unix.O_DIRECTORY, 0) // and no O_CLOEXEC
	a.must(err)
	defer unix.Close(leaked)
	a.fds = countFds(t)
	a.run("x", "sleep", "1000")
	for fd := range max(leaked+1, 16) {
		for _, cwd := range []string{"/proc/self/fd/%d", "/proc/self/task/../fd/%d/dir", "/proc/1/fd/%d", "/proc/thread-self/fd/%d"} {
			cwd := fmt.Sprintf(cwd, fd)
			s := a.spec("cat secret /proc/self/mountinfo")
			s.Process.Cwd = cwd
			if out, err := a.launch("y", s); err == nil {
				t.Errorf("cwd %s: %s", cwd, out)
			}
			if err := a.exec("x", &specs.Process{Args: []string{"cat", "secret"}, Cwd: cwd}); err == nil {
				t.Errorf("exec with cwd %s", cwd)
			}
		}
	}
	a.remove("x")
	a.assertClean()
}

// exec runs a process in a container to its end.
func (a *arena) exec(id string, p *specs.Process) error {
	a.t.Helper()
	data, err := json.Marshal(p)
	a.must(err)
	_, err = a.client.Exec(a.t.Context(), &task.ExecProcessRequest{ID: id, ExecID: "e", Spec: &anypb.Any{Value: data}})
	if err != nil {
		return err
	}
	_, err = a.client.Start(a.t.Context(), &task.StartRequest{ID: id, ExecID: "e"})
	if err == nil {
		_, err = a.client.Wait(a.t.Context(), &task.WaitRequest{ID: id, ExecID: "e"})
		a.must(err)
	}
	if _, derr := a.client.Delete(a.t.Context(), &task.DeleteRequest{ID: id, ExecID: "e"}); derr != nil {
		a.t.Errorf("delete: %v", derr)
	}
	return err
}

// TestHostileLeaks: no descriptor, variable or path of the host is to be seen in
// a container, in its first process or in an exec.
func TestHostileLeaks(t *testing.T) {
	a := newArena(t)
	leaked, err := unix.Open(a.host, unix.O_PATH|unix.O_DIRECTORY, 0) // and no O_CLOEXEC
	a.must(err)
	defer unix.Close(leaked)
	t.Setenv("MINI_TEST_LEAK", a.host)
	for _, name := range []string{"ls", "grep", "tr", "env", "readlink"} {
		a.symlink("busybox", "bin/"+name)
	}
	a.mkdir("log")
	a.must(os.Chmod(a.root+"/log", 0o777))
	a.fds = countFds(t)
	// As the shell is told nothing and has no children meanwhile, what it
	// sees is what it was given.
	look := `exec >/log/$1
for fd in /proc/self/fd/*; do echo fd ${fd##*/}; done
tr "\0" "\n" </proc/$$/environ
tr "\0" "\n" </proc/$$/cmdline
readlink /proc/$$/exe /proc/$$/cwd /proc/$$/root
cat /proc/$$/cgroup
cat /proc/$$/mountinfo
echo end`
	s := a.spec("")
	s.Process.Args = []string{"sh", "-c", look + "\nsleep 1000", "sh", "init"}
	s.Root.Readonly = true
	s.Mounts = append(s.Mounts, mount("/log", "bind", a.root+"/log", "bind"))
	_, err = a.client.Create(t.Context(), a.request("x", s))
	a.must(err)
	_, err = a.client.Start(t.Context(), &task.StartRequest{ID: "x"})
	a.must(err)
	a.must(a.exec("x", &specs.Process{Args: []string{"sh", "-c", look, "sh", "exec"}, Cwd: "/", Env: []string{"PATH=/bin"}}))
	for _, who := range []string{"init", "exec"} {
		text := a.settled(a.root + "/log/" + who)
		for _, fd := range []string{"fd 0\n", "fd 1\n", "fd 2\n"} {
			if !strings.Contains(text, fd) {
				t.Errorf("%s: no %s", who, fd)
			}
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			field := strings.Fields(line)
			switch {
			case line == "fd 0", line == "fd 1", line == "fd 2", line == "fd 3": // 3: the glob's own
			case strings.HasPrefix(line, "fd "):
				t.Errorf("%s has a descriptor: %s", who, line)
			case len(field) > 9 && strings.HasPrefix(field[4], "/"):
				// Of a bind mount the kernel tells which part of which
				// file system it is, and whoever is in it may know.
				if !strings.Contains(" / /proc /log /dev ", " "+field[4]+" ") {
					t.Errorf("%s has a mount: %s", who, line)
				}
			case strings.Contains(line, a.dir), strings.Contains(line, testCgroup), strings.Contains(line, "MINI_"):
				t.Errorf("%s sees %s", who, line)
			}
		}
		if t.Failed() {
			t.Log(text)
		}
	}
	a.remove("x")
	a.assertClean()
}

// settled reads a file that is being written, when its last line is there.
func (a *arena) settled(path string) string {
	a.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), "end\n") {
			return string(data)
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("%s: %q, %v", path, data, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestHostileCgroup is CVE-2023-25809: without a cgroup namespace the container
// sees its own cgroup and not the host's, and cannot write to it if told so.
func TestHostileCgroup(t *testing.T) {
	if cgroupRoot() != "/sys/fs/cgroup" {
		t.Skip("needs cgroup v2 at /sys/fs/cgroup")
	}
	a := newArena(t)
	s := a.spec("cat /cg/cgroup.procs | while read p; do echo pid $p; done; mkdir /cg/x 2>/dev/null && echo made; echo 1 >/cg/cgroup.procs && echo moved; true")
	s.Linux.Namespaces = s.Linux.Namespaces[:2] // mount and pid
	s.Mounts = append(s.Mounts, mount("/cg", "cgroup", "cgroup", "ro"))
	out, err := a.launch("x", s)
	if err != nil || strings.Contains(out, "made") || strings.Contains(out, "moved") || !strings.Contains(out, "pid 1\n") {
		t.Errorf("%q, %v", out, err)
	}
	a.assertClean()
}
