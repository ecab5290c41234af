package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/containerd-mini/mini/proto/options"
)

// helper, set in the environment, makes the test binary a daemon that serves
// nothing: spawn executes /proc/self/exe.
const helper = "MINI_BOOTSTRAP_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(helper) != "" {
		// The listening socket stays open with us.
		l, err := net.FileListener(os.NewFile(ListenerFd, "socket"))
		if err != nil {
			os.Exit(1)
		}
		c, err := l.Accept() // the test's check that we serve
		if err == nil {
			_, _ = c.Read(make([]byte, 1))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestWire compares the messages written by hand with containerd's own types.
func TestWire(t *testing.T) {
	var got bootapi.BootstrapResult
	if err := proto.Unmarshal(result("unix:///x"), &got); err != nil {
		t.Fatal(err)
	}
	if got.Version != 3 || got.Address != "unix:///x" || got.Protocol != "ttrpc" || len(got.Extensions) != 1 {
		t.Errorf("%v", &got)
	}
	var caps types.MountCapabilities
	if v := got.Extensions[0].Value; v.TypeUrl != string(caps.ProtoReflect().Descriptor().FullName()) || len(v.Value) != 0 {
		t.Errorf("extension %v", v)
	}
	var del task.DeleteResponse
	if err := proto.Unmarshal(deleteResponse(137, 1700000000, 5), &del); err != nil {
		t.Fatal(err)
	}
	if del.ExitStatus != 137 || del.ExitedAt.Seconds != 1700000000 || del.ExitedAt.Nanos != 5 {
		t.Errorf("%v", &del)
	}
}

// TestDialects: what each containerd sends, and the answer it understands.
func TestDialects(t *testing.T) {
	dir := t.TempDir()
	modern, err := proto.Marshal(&bootapi.BootstrapParams{
		InstanceID: "c1", Namespace: "ns", ContainerdVersion: "v2.4.2", SocketDir: &dir,
		Extensions: []*bootapi.Extension{{Value: &anypb.Any{TypeUrl: "x", Value: []byte("y")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	older, err := proto.Marshal(&anypb.Any{TypeUrl: runtimeOptions, Value: []byte("ns")})
	if err != nil {
		t.Fatal(err)
	}
	a := &Args{ID: "c1", Namespace: "ns"}
	if p, ok := parseParams(modern, a); !ok || p.socketDir != dir {
		t.Errorf("2.4: %+v %v", p, ok)
	}
	for name, in := range map[string][]byte{"none": nil, "options": older, "another": modern[:4], "garbage": {0xff, 0xff}} {
		if _, ok := parseParams(in, a); ok {
			t.Errorf("%s taken for BootstrapParams", name)
		}
	}
	if _, ok := parseParams(modern, &Args{ID: "c2", Namespace: "ns"}); ok {
		t.Error("taken for another container")
	}
}

// TestOptionsMayName: which options the rest of the program has to read, in both dialects.
func TestOptionsMayName(t *testing.T) {
	for name, c := range map[string]struct {
		message proto.Message
		may     bool
	}{
		"a group":          {&options.Options{ShimGroup: "node"}, true},
		"another option":   {&options.Options{MissingControllers: "ignore"}, false},
		"a group as TOML":  {&runtimeoptions.Options{ConfigBody: []byte("a = 1\nshim_group = 'node'")}, true},
		"another as TOML":  {&runtimeoptions.Options{TypeUrl: "shim_group", ConfigBody: []byte("a = 1")}, false},
		"a file":           {&runtimeoptions.Options{ConfigPath: "/x"}, true},
		"nothing":          {&runtimeoptions.Options{}, false},
		"a type of others": {&anypb.Any{TypeUrl: "x", Value: []byte("shim_group")}, false},
	} {
		opts, err := typeurl.MarshalAnyToProto(c.message)
		if err != nil {
			t.Fatal(err)
		}
		params := &bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns"}
		if err := errors.Join(params.AddExtension(&anypb.Any{TypeUrl: "x"}), params.AddExtension(opts)); err != nil {
			t.Fatal(err)
		}
		for _, stdin := range []proto.Message{opts, params} {
			in, err := proto.Marshal(stdin)
			if err != nil {
				t.Fatal(err)
			}
			s, err := newStart(&Args{ID: "c1", Namespace: "ns"}, bytes.NewReader(in))
			if err != nil {
				t.Fatal(err)
			}
			if modern := stdin == proto.Message(params); s.modern != modern || s.params.options.mayName(groupOption) != c.may {
				t.Errorf("%s: modern %v, may %v", name, s.modern, !c.may)
			}
			if url, value := s.Options(); c.may && (url != opts.TypeUrl || !bytes.Equal(value, opts.Value)) {
				t.Errorf("%s: %s %q", name, url, value)
			}
		}
	}
}

// TestShimGroup: containers of different pods have one shim, whose socket is that of no container, and which may
// only retire when nobody has been sent to it for a while.
func TestShimGroup(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(helper, "1")
	dir := t.TempDir()
	run := func(id, group string) (path string) {
		t.Helper()
		s := &Start{args: Args{ID: id, Namespace: "ns", Address: "addr"}, params: params{socketDir: dir}, modern: true}
		out, err := s.run(group)
		if err != nil {
			t.Fatal(err)
		}
		var got bootapi.BootstrapResult
		if err := proto.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		path, _ = strings.CutPrefix(got.Address, "unix://")
		return path
	}
	path := run("c1", "node")
	if run("node", "") == path {
		t.Error("a container has the name of a group, and its shim")
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	if run("c2", "node") != path {
		t.Error("a second container has another shim")
	}
	if Retire(path, time.Minute) || !exists(path) {
		t.Error("a shim retires that somebody has just been sent to")
	}
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := flock(int(lock.Fd())); err != nil {
		t.Fatal(err)
	}
	if Retire(path, time.Minute) || !exists(path) {
		t.Error("a shim retires while somebody is being sent to it")
	}
	lock.Close()
	if !Retire(path, time.Minute) || exists(path) {
		t.Error("a shim without anybody does not retire")
	}
	if !Retire(path, time.Minute) || !Retire(dir+"/none/x", time.Minute) {
		t.Error("a shim without a socket does not retire")
	}
	if run("c3", "node") != path {
		t.Error("the next shim has another socket")
	}
	s := &Start{args: Args{ID: "c1", Namespace: "ns"}}
	if _, err := s.run("a/b"); err == nil || err.Error() != `shim_group: "a/b": not a name` {
		t.Errorf("%v", err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestStart makes a daemon, finds it again for the same group, and replaces
// the socket of a dead one.
func TestStart(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(helper, "1")
	dir := t.TempDir()
	spec := map[string]any{"annotations": map[string]string{"io.kubernetes.cri.sandbox-id": "pod"}}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("config.json", data, 0o600); err != nil {
		t.Fatal(err)
	}
	path := SocketPath(dir, "addr", "ns", "pod")
	// Left by a killed shim.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, id := range []string{"pod", "c1"} {
		params, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: id, Namespace: "ns", SocketDir: &dir})
		if err != nil {
			t.Fatal(err)
		}
		s, err := newStart(&Args{ID: id, Namespace: "ns", Address: "addr"}, bytes.NewReader(params))
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.run("")
		if err != nil {
			t.Fatal(err)
		}
		var got bootapi.BootstrapResult
		if err := proto.Unmarshal(out, &got); err != nil || got.Address != "unix://"+path {
			t.Errorf("%s: %v %v", id, &got, err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", st, err)
	}
}

func TestLegacyAnswers(t *testing.T) {
	t.Chdir(t.TempDir())
	// A socket that is served: no daemon is needed.
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("MAX_SHIM_VERSION", "2")
	var boot struct {
		Version           int
		Address, Protocol string
	}
	if err := json.Unmarshal(answer(path, false), &boot); err != nil || boot.Version != 2 || boot.Address != "unix://"+path || boot.Protocol != "ttrpc" {
		t.Errorf("1.7: %+v %v", boot, err)
	}
	t.Setenv("MAX_SHIM_VERSION", "")
	if got := string(answer(path, false)); got != "unix://"+path {
		t.Errorf("1.6: %s", got)
	}
}

func TestParse(t *testing.T) {
	a, err := Parse(strings.Fields("-namespace k8s.io -address /c.sock -publish-binary /bin/containerd -id c1 -bundle /b -debug delete"))
	if err != nil || a.Namespace != "k8s.io" || a.ID != "c1" || a.Bundle != "/b" || !a.Debug || a.Action != "delete" {
		t.Errorf("%+v %v", a, err)
	}
	for args, want := range map[string]string{
		"-id c1 start":                      "-namespace: missing",
		"-namespace n start":                "-id: missing",
		"-namespace n -id ../x start":       `-id: "../x": not a name`,
		"-namespace .. -id x start":         `-namespace: "..": not a name`,
		"-namespace n -id x stop":           `action "stop": want start or delete`,
		"-namespace n -id x start now":      `unexpected argument "now"`,
		"-namespace n -id x -nope start":    "flag provided but not defined: -nope",
		"-namespace n -id x/y delete":       `-id: "x/y": not a name`,
		"-namespace n -id x delete -debug=": `unexpected argument "-debug="`,
	} {
		if _, err := Parse(strings.Fields(args)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

// TestDelete: what is gone already is no error.
func TestDelete(t *testing.T) {
	t.Chdir(t.TempDir())
	stdout := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = w
	handled, err := deleteEarly(&Args{ID: "c1", Namespace: "ns", Bundle: "/nonexistent/bundle"})
	os.Stdout = stdout
	w.Close()
	if !handled || err != nil {
		t.Fatalf("%v %v", handled, err)
	}
	buf := make([]byte, 100)
	n, _ := r.Read(buf)
	r.Close()
	var del task.DeleteResponse
	if err := proto.Unmarshal(buf[:n], &del); err != nil || del.ExitStatus != 137 {
		t.Errorf("%v %v", &del, err)
	}
	// A record means that there is something to clean up: not our part.
	if err := os.WriteFile(RecordName, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if handled, err := deleteEarly(&Args{ID: "c1", Namespace: "ns"}); handled || err != nil {
		t.Errorf("%v %v", handled, err)
	}
}

// TestServedInDoubt: a `delete` that finds no descriptors free, or memory, takes nobody's socket away: what serves
// there has containers.
func TestServedInDoubt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	addr := &syscall.SockaddrUnix{Name: path}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	in := served(addr)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if !in {
		t.Error("without descriptors: not served")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if !served(addr) {
		t.Error("not served")
	}
	if l.Close(); served(addr) {
		t.Error("served by nobody")
	}
}

func FuzzParams(f *testing.F) {
	dir := "/run/x"
	seed, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: "c1", Namespace: "ns", SocketDir: &dir})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, in []byte) {
		p, ok := parseParams(in, &Args{ID: "c1", Namespace: "ns"})
		var want bootapi.BootstrapParams
		if err := proto.Unmarshal(in, &want); err != nil {
			return // containerd would not have sent it
		}
		if hasGroup(in) {
			return // nor this: no message of today has any
		}
		if same := want.InstanceID == "c1" && want.Namespace == "ns"; ok != same {
			t.Errorf("ok %v, containerd's types say %v", ok, same)
		}
		if ok && p.socketDir != want.GetSocketDir() {
			t.Errorf("socket_dir %q, containerd's types say %q", p.socketDir, want.GetSocketDir())
		}
	})
}

func hasGroup(in []byte) bool {
	for len(in) > 0 {
		_, kind, n := protowire.ConsumeField(in)
		if n < 0 || kind == protowire.StartGroupType {
			return true
		}
		in = in[n:]
	}
	return false
}

func FuzzParse(f *testing.F) {
	f.Add("-namespace n -id x -address a start")
	f.Fuzz(func(t *testing.T, args string) {
		a, err := Parse(strings.Fields(args))
		if err == nil && !a.Info && !a.Version && (strings.Contains(a.ID, "/") || a.ID == ".." || a.ID == "") {
			t.Errorf("id %q", a.ID)
		}
	})
}
