package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rounds is how often a race is run: MINI_TEST_RACES, thousands to be sure of
// it, few by default.
func rounds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("MINI_TEST_RACES"))
	if err != nil {
		n = 40
	}
	if testing.Short() {
		n = min(n, 5)
	}
	return n
}

// swap exchanges two names for one another, as fast as it can, until the test
// is over: renameat2(2), RENAME_EXCHANGE.
func swap(t *testing.T, a, b string) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("exchange %s: %v", a, err)
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// TestHostileRaces swaps a path of the root for a symlink to the host while
// Create uses it: CVE-2021-30465, CVE-2024-45310, CVE-2025-31133,
// CVE-2025-52565, CVE-2025-52881. It may be refused or not; the host stays as it
// is, and nothing is left.
func TestHostileRaces(t *testing.T) {
	for _, race := range []struct {
		name string
		path string // what is swapped, a directory unless it ends in .file
		out  string // of the host, what the symlink leads to
		tty  bool
		spec func(a *arena, s *specs.Spec)
	}{
		{name: "CVE-2021-30465/tmpfs", path: "data", out: "dir", spec: addMount(mount("/data", "tmpfs", "tmpfs"))},
		{name: "CVE-2021-30465/bind", path: "data", out: "dir", spec: func(a *arena, s *specs.Spec) {
			s.Mounts = append(s.Mounts, mount("/data", "bind", a.root+"/bin", "rbind"))
		}},
		{name: "CVE-2021-30465/in-a-volume", path: "volume/inner", out: "dir", spec: func(a *arena, s *specs.Spec) {
			s.Mounts = append(s.Mounts, mount("/v", "bind", a.root+"/volume", "rbind"), mount("/v/inner", "bind", a.root+"/bin", "rbind"))
		}},
		{name: "CVE-2024-45310/directories", path: "data", out: "empty", spec: addMount(mount("/data/a/b/c", "tmpfs", "tmpfs"))},
		{name: "CVE-2024-45310/file", path: "data", out: "empty", spec: func(a *arena, s *specs.Spec) {
			s.Mounts = append(s.Mounts, mount("/data/a/file", "bind", a.root+"/bin/busybox", "bind"))
		}},
		{name: "CVE-2024-45310/nowhere", path: "data", out: "empty", spec: func(a *arena, s *specs.Spec) {
			// What was made where the symlink leads.
			a.must(os.RemoveAll(filepath.Join(a.root, strings.Split(a.host, "/")[1])))
			s.Mounts = append(s.Mounts, mount("/data/a/b/c", "tmpfs", "tmpfs"), mount("/data/d/file", "bind", a.root+"/bin/busybox", "bind"))
		}},
		{name: "CVE-2024-45310/cwd", path: "data", out: "empty", spec: func(_ *arena, s *specs.Spec) { s.Process.Cwd = "/data/work/deep" }},
		{name: "CVE-2019-19921/proc", path: "proc", out: "proc"},
		{name: "CVE-2025-52881/sysctl", path: "proc", out: "proc", spec: func(_ *arena, s *specs.Spec) {
			addNamespace(s, specs.NetworkNamespace)
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		}},
		{name: "CVE-2026-41579/dev", path: "dev", out: "empty", spec: func(_ *arena, s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200}}
		}},
		{name: "CVE-2025-31133/null", path: "dev/null.file", out: "null", spec: func(a *arena, s *specs.Spec) {
			a.write("etc/mask", "")
			s.Linux.MaskedPaths = []string{"/etc/mask"}
		}},
		{name: "CVE-2025-31133/masked", path: "etc", out: "dir", spec: func(_ *arena, s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/etc", "/etc/sub"}
			s.Linux.ReadonlyPaths = []string{"/etc"}
		}},
		{name: "CVE-2025-52565/console", path: "dev/console.file", out: "console", tty: true, spec: addMount(mount("/dev/pts", "devpts", "devpts", "newinstance"))},
		{name: "CVE-2025-52565/pts", path: "dev/pts", out: "dir", tty: true, spec: addMount(mount("/dev/pts", "devpts", "devpts", "newinstance"))},
	} {
		t.Run(race.name, func(t *testing.T) {
			a := newArena(t)
			name, isFile := strings.CutSuffix(race.path, ".file")
			if isFile {
				a.write(name, "")
			} else {
				a.mkdir(name)
			}
			a.symlink(a.outside(race.out), "swapped")
			before := a.picture()
			stop := swap(t, filepath.Join(a.root, name), filepath.Join(a.root, "swapped"))
			t.Cleanup(stop)
			made := 0
			n := rounds(t)
			for range n {
				s := a.spec("")
				if race.spec != nil {
					race.spec(a, s)
				}
				req := a.request("x", s)
				req.Terminal = race.tty
				if _, err := a.client.Create(t.Context(), req); err == nil {
					made++
					a.remove("x")
				}
			}
			stop()
			// Of few, all may have met the symlink.
			if t.Logf("%d of %d were made", made, n); made == 0 && n >= 40 {
				t.Error("none was made: nothing was tried")
			}
			if after := a.picture(); after != before {
				t.Errorf("the host has changed:\n%s\nit was:\n%s", after, before)
			}
			a.assertClean()
		})
	}
}

// snoop looks, in a loop, for an agent among the processes it sees, and for what
// that would give away: the host's root, its descriptors, its memory. Shell
// builtins alone: it is as fast as a shell can be. It ends with the directory /stop.
const snoop = `
is() { read now <$1/comm; [ "$now" = $2 ]; }
caps() { while read name value; do case $name in CapPrm:) echo $value; return;; esac; done <$1/status; }
own=$(caps /proc/self)
echo ready
while ! [ -d /stop ]; do
	for p in /proc/[0-9]*; do
		case $p in /proc/$$|/proc/1) continue;; esac
		{
			read x <$p/root$host/secret && echo "root of $p"
			read x <$p/cwd$host/secret && echo "cwd of $p"
			read c <$p/comm
			case $c in sleep|sh|busybox|true|cat|"") continue;; esac
			seen=$c
			# What is open when it has become another program is of that one.
			{ has=$(caps $p); is $p $c && [ $has != $own ] && [ -z $making ] && echo "memory of $p $c with $has"; } 9>>$p/mem
			{ is $p $c && echo "program of $p $c"; } 9>>$p/exe
			{ read x && is $p $c && echo "environment of $p $c: $x"; } <$p/environ
			for fd in 3 4 5 6 7 8; do
				read x <$p/fd/$fd/secret && echo "descriptor $fd of $p"
			done
		} 2>/dev/null
	done
done
echo "done, saw $seen"`

// TestHostileSnoop: a root in the container that sees an agent come, before it is
// what it is to become, can neither trace it nor reach the host through it.
// CVE-2016-9962, CVE-2019-5736, CVE-2024-21626.
func TestHostileSnoop(t *testing.T) {
	for _, who := range []struct {
		name string
		caps []string
	}{
		{"capabilities of engines", nil},
		{"with CAP_SYS_PTRACE", []string{"CAP_SYS_PTRACE"}},
	} {
		t.Run("exec/"+who.name, func(t *testing.T) {
			a := newArena(t)
			s := a.spec(snoop)
			s.Process.Capabilities = capabilities(who.caps...)
			a.snoopWhile(s, func(i int) {
				a.must(a.exec("x", &specs.Process{
					Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: s.Process.Capabilities,
				}))
			})
		})
		t.Run("shared pid namespace/"+who.name, func(t *testing.T) {
			a := newArena(t)
			// An agent that still makes its container has more than others in
			// the pod: one that may trace gets that, and nothing of the host.
			s := a.spec("")
			if who.caps != nil {
				s = a.spec("making=yes")
			}
			s.Process.Args[2] += snoop
			s.Process.Capabilities = capabilities(who.caps...)
			a.snoopWhile(s, func(i int) {
				state, err := a.client.State(t.Context(), &task.StateRequest{ID: "x"})
				a.must(err)
				pod := a.spec("true")
				for i := range pod.Linux.Namespaces {
					if ns := &pod.Linux.Namespaces[i]; ns.Type == specs.PIDNamespace {
						ns.Path = fmt.Sprintf("/proc/%d/ns/pid", state.Pid)
					}
				}
				pod.Linux.CgroupsPath += "-pod"
				if _, err := a.launch("y", pod); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// snoopWhile runs a container that snoops while something is done, rounds of it.
func (a *arena) snoopWhile(s *specs.Spec, do func(i int)) {
	a.t.Helper()
	req := a.request("x", s)
	out := filepath.Join(a.dir, "out-x")
	req.Stdout, req.Stderr = "file://"+out, "file://"+out
	_, err := a.client.Create(a.t.Context(), req)
	a.must(err)
	_, err = a.client.Start(a.t.Context(), &task.StartRequest{ID: "x"})
	a.must(err)
	for !strings.HasPrefix(readFile(out), "ready\n") {
		time.Sleep(time.Millisecond)
	}
	for i := range rounds(a.t.(*testing.T)) {
		do(i)
	}
	a.mkdir("stop")
	_, err = a.client.Wait(a.t.Context(), &task.WaitRequest{ID: "x"})
	a.must(err)
	a.remove("x")
	text := strings.TrimPrefix(readFile(out), "ready\n")
	if !strings.HasPrefix(text, "done, saw") {
		a.t.Errorf("it got out:\n%.2000s", text)
	}
	a.t.Log(text)
	a.assertClean()
}

func readFile(name string) string {
	data, _ := os.ReadFile(name)
	return string(data)
}
