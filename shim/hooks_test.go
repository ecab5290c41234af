package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containerd-mini/mini/shim/internal/container"
)

// allHooks has a hook of each kind write a line to a log: its name, what it finds,
// its state.
func (r *rig) allHooks(script string) (hooks *specs.Hooks, log string) {
	log = filepath.Join(r.dir, "log")
	hook := func(name, log string) []specs.Hook {
		arg0 := "hook-" + name
		if name == "startContainer" {
			arg0 = "sh" // busybox goes by it
		}
		return []specs.Hook{{
			Path: "/bin/sh", Args: []string{arg0, "-c", "{ echo -n \"" + name + " $0 $X \"; " + script + "; read state; echo \"$state\"; } >> " + log},
			Env: []string{"X=" + name, "PATH=/bin:/usr/bin"},
		}}
	}
	return &specs.Hooks{
		Prestart:        hook("prestart", log), //nolint:staticcheck // deprecated, and to work
		CreateRuntime:   hook("createRuntime", log),
		CreateContainer: hook("createContainer", log),
		StartContainer:  hook("startContainer", "/log"),
		Poststart:       hook("poststart", log),
		Poststop:        hook("poststop", log),
	}, log
}

type hookLine struct {
	name, arg0, env string
	found           []string
	state           specs.State
}

func (r *rig) hookLines(log string) (lines []hookLine) {
	r.t.Helper()
	data, err := os.ReadFile(log)
	r.must(err)
	for line := range strings.Lines(string(data)) {
		i := strings.Index(line, "{")
		if i < 0 {
			r.t.Fatalf("no state in %q", line)
		}
		f := strings.Fields(line[:i])
		h := hookLine{name: f[0], arg0: f[1], env: f[2], found: f[3:]}
		r.must(json.Unmarshal([]byte(line[i:]), &h.state))
		lines = append(lines, h)
	}
	return lines
}

// TestHooks: all six, in their order, namespaces, with their arguments, environment
// and state; with and without a user namespace, on a directory and on a mount.
func TestHooks(t *testing.T) {
	for _, user := range []bool{false, true} {
		for _, mount := range []bool{false, true} {
			t.Run(fmt.Sprintf("user=%t,mount=%t", user, mount), func(t *testing.T) { testHooks(t, user, mount) })
		}
	}
}

func testHooks(t *testing.T, user, mount bool) {
	r := newRig(t)
	r.applets("readlink")
	root := filepath.Join(r.dir, "rootfs")
	if user {
		r.chown(root, mappedRoot)
	}
	spec := r.spec("sh", "-c", "echo started >> /log; sleep 100")
	spec.Annotations = map[string]string{"a": "b"}
	var rootfs []*types.Mount
	if mount {
		rootfs = []*types.Mount{{Type: "bind", Source: root, Options: []string{"rbind", "rw"}}}
		spec.Root.Path = "rootfs"
		r.must(os.MkdirAll(filepath.Join(r.dir, "bundle-x", "rootfs"), 0o755))
	}
	if user {
		// containerd lets the user namespace's root search the way to the
		// bundle, too.
		mapped(spec)
		r.must(os.MkdirAll(filepath.Join(r.dir, "bundle-x"), 0o755))
		r.must(os.Chmod(filepath.Dir(r.dir), 0o755))
	}
	bundleRoot := spec.Root.Path
	if mount {
		bundleRoot = filepath.Join(r.dir, "bundle-x", "rootfs")
	}
	// What can be seen at bundle/rootfs, and in which namespaces.
	var log string
	spec.Hooks, log = r.allHooks("echo -n $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/pid) $(pwd) $(cd " + bundleRoot + " 2>/dev/null && echo *)")
	r.must(os.WriteFile(log, nil, 0o666))
	r.must(os.Chmod(log, 0o666))
	req := r.request("x", spec)
	req.Rootfs = rootfs
	created, err := r.client.Create(t.Context(), req)
	r.must(err)
	_, err = r.client.Start(t.Context(), &task.StartRequest{ID: "x"})
	r.must(err)
	ns := func(pid any, name string) string {
		link, err := os.Readlink(fmt.Sprintf("/proc/%v/ns/%s", pid, name))
		r.must(err)
		return link
	}
	hostMnt, hostPid, mnt, pid := ns("self", "mnt"), ns("self", "pid"), ns(created.Pid, "mnt"), ns(created.Pid, "pid")
	deadline := time.Now().Add(time.Minute)
	var inner []string
	for len(inner) < 2 && time.Now().Before(deadline) {
		data, err := os.ReadFile(filepath.Join(root, "log"))
		r.must(err)
		inner = strings.Split(strings.TrimSpace(string(data)), "\n")
	}
	if len(inner) != 2 || !strings.HasPrefix(inner[0], "startContainer") || inner[1] != "started" {
		t.Errorf("startContainer and the container: %q", inner)
	}
	r.remove("x")
	got := r.hookLines(log)
	got = append(got, r.hookLines(r.firstLine(filepath.Join(root, "log")))...)
	bundle := filepath.Join(r.dir, "bundle-x")
	want := []struct {
		name, status, mnt, pid, cwd string
		statePid                    int
	}{
		{"prestart", "creating", hostMnt, hostPid, bundle, int(created.Pid)},
		{"createRuntime", "creating", hostMnt, hostPid, bundle, int(created.Pid)},
		{"createContainer", "creating", mnt, pid, "/", 1},
		{"poststart", "running", hostMnt, hostPid, bundle, int(created.Pid)},
		{"poststop", "stopped", hostMnt, hostPid, bundle, 0},
		{"startContainer", "created", mnt, pid, "/", 1},
	}
	if len(got) != len(want) {
		t.Fatalf("%d hooks: %+v", len(got), got)
	}
	for i, w := range want {
		g := got[i]
		if g.name != w.name || g.arg0 != "hook-"+w.name && g.arg0 != "sh" || g.env != w.name ||
			len(g.found) < 3 || g.found[0] != w.mnt || g.found[1] != w.pid || g.found[2] != w.cwd {
			t.Errorf("hook %d: %+v, want %+v", i, g, w)
		}
		s := g.state
		if s.ID != "x" || string(s.Status) != w.status || s.Pid != w.statePid || s.Bundle != bundle || s.Annotations["a"] != "b" || s.Version != specs.Version {
			t.Errorf("hook %s: state %+v, want %+v", g.name, s, w)
		}
		if sees := strings.Contains(strings.Join(g.found[3:], " "), "bin"); !sees && w.name != "startContainer" {
			t.Errorf("hook %s does not see the root: %q", g.name, g.found)
		}
		if w.name == "createContainer" && !strings.Contains(strings.Join(g.found, " "), "proc") {
			t.Errorf("createContainer comes before the mounts")
		}
	}
	r.assertClean()
}

func (r *rig) firstLine(path string) string {
	data, err := os.ReadFile(path)
	r.must(err)
	first, _, _ := strings.Cut(string(data), "\n")
	out := path + ".first"
	r.must(os.WriteFile(out, []byte(first+"\n"), 0o600))
	return out
}

// TestHookFails: what a hook says reaches the error, a container whose hook fails
// is stopped, and its poststop hooks run.
func TestHookFails(t *testing.T) {
	one := 1
	for _, kind := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart"} {
		for name, hook := range map[string]specs.Hook{
			"exit status 3: some words": {Path: "/bin/sh", Args: []string{"sh", "-c", "echo some; echo words >&2; exit 3"}},
			"exit status 1: last":       {Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 100 & echo last; exit 1"}, Env: []string{"PATH=/bin"}},
			"not done within 1 s: x":    {Path: "/bin/sh", Args: []string{"sh", "-c", "echo x; while :; do :; done"}, Timeout: &one},
			"no such file or directory": {Path: "/no/such/hook"},
			"SIGSEGV":                   {Path: "/bin/sh", Args: []string{"sh", "-c", "kill -SEGV $$"}},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				r := newRig(t)
				spec := r.spec("sleep", "100")
				end := filepath.Join(r.dir, "end")
				spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{
					{Path: "/bin/false"}, {Path: "/bin/sh", Args: []string{"sh", "-c", "echo end >> " + end}},
				}}
				list := []specs.Hook{{Path: "/bin/true"}, hook}
				switch kind {
				case "prestart":
					spec.Hooks.Prestart = list //nolint:staticcheck // deprecated, and to work
				case "createRuntime":
					spec.Hooks.CreateRuntime = list
				case "createContainer":
					spec.Hooks.CreateContainer = list
				case "startContainer":
					spec.Hooks.StartContainer = list
				case "poststart":
					spec.Hooks.Poststart = list
				}
				_, err := r.client.Create(t.Context(), r.request("x", spec))
				if strings.HasSuffix(kind, "art") || kind == "startContainer" {
					if kind != "prestart" {
						r.must(err)
						_, err = r.client.Start(t.Context(), &task.StartRequest{ID: "x"})
						r.wait("x")
						r.remove("x")
					}
				}
				words := strings.Join(strings.Fields(status.Convert(err).Message()), " ")
				if err == nil || !strings.HasPrefix(words, fmt.Sprintf("hooks.%s[1]: %s: ", kind, hook.Path)) || !strings.Contains(words, name) {
					t.Errorf("error %v", err)
				}
				if data, err := os.ReadFile(end); err != nil || string(data) != "end\n" {
					t.Errorf("poststop: %q, %v", data, err)
				}
				r.assertClean()
			})
		}
	}
}

// TestHooksOfKilledShim: `delete` does what the hooks want, and unmounts what was
// mounted for them.
func TestHooksOfKilledShim(t *testing.T) {
	r := newRig(t)
	root := filepath.Join(r.dir, "rootfs")
	spec := r.spec("sleep", "100")
	spec.Root.Path = "rootfs"
	var log string
	spec.Hooks, log = r.allHooks("true")
	spec.Hooks.StartContainer = nil
	req := r.request("x", spec)
	bundle := filepath.Join(r.dir, "bundle-x")
	r.must(os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755))
	req.Rootfs = []*types.Mount{{Type: "bind", Source: root, Options: []string{"rbind", "rw"}}}
	_, err := r.client.Create(t.Context(), req)
	r.must(err)
	r.must(container.Bury(context.Background(), cgroupRoot(), bundle))
	lines := r.hookLines(log)
	if last := lines[len(lines)-1]; last.name != "poststop" || last.state.ID != "x" || last.state.Bundle != bundle || last.state.Status != specs.StateStopped {
		t.Errorf("%+v", last)
	}
	if data, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(data), r.dir) {
		t.Errorf("mount left, or %v", err)
	}
	r.remove("x")
	r.assertClean()
}

// TestRecordCutShort: a shim that was killed before it wrote its record has made nothing. What cannot be
// read is said.
func TestRecordCutShort(t *testing.T) {
	bundle := t.TempDir()
	record := filepath.Join(bundle, "mini.cgroup")
	for text, want := range map[string]string{"": "", "{": "mini.cgroup", "/a/b\n": "mini.cgroup"} {
		if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := container.Bury(context.Background(), t.TempDir(), bundle)
		if _, serr := os.Lstat(record); want == "" && (err != nil || !errors.Is(serr, fs.ErrNotExist)) {
			t.Errorf("%q: %v, %v", text, err, serr)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestCallerGoesAway: a start whose caller is killed meanwhile goes on.
func TestCallerGoesAway(t *testing.T) {
	r := newRig(t)
	begun, gate := filepath.Join(r.dir, "begun"), filepath.Join(r.dir, "gate")
	spec := r.spec("sh", "-c", "sleep 1000")
	spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{{
		Path: "/bin/sh", Args: []string{"sh", "-c", "touch " + begun + "; until [ -e " + gate + " ]; do sleep 0.02; done"},
		Env: []string{"PATH=/bin:/usr/bin"},
	}}}
	_, err := r.client.Create(t.Context(), r.request("x", spec))
	r.must(err)
	lost := make(chan error, 1)
	go func() {
		_, err := r.client.Start(t.Context(), &task.StartRequest{ID: "x"})
		lost <- err
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the hook does not run")
		}
	}
	r.must(r.conn.Close())
	if err := <-lost; err == nil {
		t.Fatal("start was answered")
	}
	time.Sleep(100 * time.Millisecond) // what would be killed is
	r.must(os.WriteFile(gate, nil, 0o600))
	r.dial()
	// One start at a time: this one is answered when the first has come to its end.
	if _, err := r.client.Start(t.Context(), &task.StartRequest{ID: "x"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("start again: %v", err)
	}
	r.state("x", "", tasktypes.Status_RUNNING)
	r.remove("x")
	r.assertClean()
}
