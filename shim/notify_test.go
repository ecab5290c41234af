package shim

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"
)

// seccompAgent is who listens at linux.seccomp.listenerPath, and says EDOM to
// every call.
type seccompAgent struct {
	path string
	got  chan specs.ContainerProcessState
}

func newSeccompAgent(t *testing.T, dir string) *seccompAgent {
	a := &seccompAgent{path: filepath.Join(dir, "agent.sock"), got: make(chan specs.ContainerProcessState, 10)}
	l, err := net.Listen("unix", a.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			a.serve(t, conn.(*net.UnixConn))
		}
	}()
	return a
}

func (a *seccompAgent) serve(t *testing.T, conn *net.UnixConn) {
	defer conn.Close()
	data, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		t.Error(err)
		return
	}
	var state specs.ContainerProcessState
	if err := json.Unmarshal(data[:n], &state); err != nil {
		t.Errorf("%s: %v", data[:n], err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		t.Errorf("%v %v", msgs, err)
		return
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("%v %v", fds, err)
		return
	}
	a.got <- state
	go answer(fds[0])
}

// answer says EDOM until the last process under the filter has gone:
// seccomp_unotify(2).
func answer(fd int) {
	defer unix.Close(fd)
	const recv, send = 0xc0502100, 0xc0182101 // SECCOMP_IOCTL_NOTIF_RECV, _SEND
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err == unix.EINTR {
			continue
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var notif [80]byte // struct seccomp_notif
		var resp [24]byte  // struct seccomp_notif_resp: id, val, error, flags
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), recv, uintptr(unsafe.Pointer(&notif))); errno != 0 {
			continue // it was killed meanwhile
		}
		copy(resp[:8], notif[:8])
		binary.LittleEndian.PutUint32(resp[16:], ^uint32(unix.EDOM)+1)
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), send, uintptr(unsafe.Pointer(&resp)))
	}
}

// TestNotify: calls of a container and of its execs come to who listens at
// linux.seccomp.listenerPath: config-linux.md#seccomp.
func TestNotify(t *testing.T) {
	for _, noNewPrivs := range []bool{true, false} {
		a := newArena(t)
		agent := newSeccompAgent(t, a.dir)
		a.fds = countFds(t)
		s := a.spec("mkdir /made; echo $?; sleep 1000")
		s.Process.NoNewPrivileges = noNewPrivs
		s.Annotations = map[string]string{"a": "b"}
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: agent.path, ListenerMetadata: "meta",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}},
		}
		req := a.request("x", s)
		out := filepath.Join(a.dir, "out")
		req.Stdout, req.Stderr = "file://"+out, "file://"+out
		created, err := a.client.Create(t.Context(), req)
		a.must(err)
		_, err = a.client.Start(t.Context(), &task.StartRequest{ID: "x"})
		a.must(err)
		got := <-agent.got
		want := specs.State{Version: specs.Version, ID: "x", Status: specs.StateCreated, Pid: int(created.Pid), Bundle: req.Bundle}
		if got.Version != specs.Version || len(got.Fds) != 1 || got.Fds[0] != specs.SeccompFdName || got.Pid != int(created.Pid) ||
			got.Metadata != "meta" || got.State.Annotations["a"] != "b" {
			t.Errorf("%+v", got)
		}
		if got.State.Annotations = nil; !equalJSON(got.State, want) {
			t.Errorf("state %+v, want %+v", got.State, want)
		}
		deadline := time.Now().Add(time.Minute)
		for !strings.HasSuffix(readFile(out), "\n1\n") {
			if time.Now().After(deadline) {
				t.Fatalf("it printed %q", readFile(out))
			}
			time.Sleep(10 * time.Millisecond)
		}
		if text := readFile(out); !strings.Contains(text, "argument out of domain") {
			t.Errorf("it printed %q", text)
		}
		a.must(a.exec("x", &specs.Process{
			Args: []string{"sh", "-c", "mkdir /made || exit 0; mkdir /wrong"}, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: noNewPrivs,
		}))
		if got := <-agent.got; got.State.Status != specs.StateRunning || got.State.Pid != int(created.Pid) || got.Pid == got.State.Pid {
			t.Errorf("exec: %+v", got)
		}
		a.remove("x")
		a.assertClean()
	}
}

func equalJSON(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// TestNotifyNobody: without a listener at the path the process does not run.
func TestNotifyNobody(t *testing.T) {
	a := newArena(t)
	s := a.spec("echo wrong")
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: a.dir + "/nobody",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}},
	}
	out, err := a.launch("x", s)
	if err == nil || !strings.Contains(status.Convert(err).Message(), "linux.seccomp.listenerPath: ") || out != "" {
		t.Errorf("%q, %v", out, err)
	}
	a.assertClean()
}
