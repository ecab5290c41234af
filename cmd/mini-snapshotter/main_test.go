package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestMain is the command itself when it is asked to be.
func TestMain(m *testing.M) {
	if os.Getenv("MINI_TEST_COMMAND") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command prepares to run the snapshotter.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "MINI_TEST_COMMAND=1")
	return cmd
}

// start runs it until it has told systemd that it is ready.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	dir, err := os.MkdirTemp("", "n")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/n", Net: "unixgram"})
	must(t, err)
	defer conn.Close()
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+dir+"/n")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	must(t, err)
	if got := string(buffer[:n]); got != "READY=1" {
		t.Fatalf("told systemd %q", got)
	}
}

func TestServesAndStops(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	socket := dir + "/run/mini.sock"
	for range 2 { // the second time over what a kill has left
		cmd := command("--root", dir+"/root", "--address", socket, "--log-level", "warn")
		start(t, cmd)
		info, err := os.Stat(socket)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("socket: %v", info.Mode())
		}
		info, err = os.Stat(dir + "/run")
		must(t, err)
		if info.Mode().Perm() != 0o700 {
			t.Errorf("its directory: %v", info.Mode())
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	cmd := command("--root", dir+"/root", "--address", socket)
	start(t, cmd)
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("socket: %v", err)
	}
}

// systemd makes the socket and says which process it is for: sh becomes the snapshotter with its pid. The
// socket outlives a stop, and who asks meanwhile is answered by the next start.
func TestSocketActivation(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"})
	must(t, err)
	defer l.Close()
	self, err := os.Executable()
	must(t, err)
	activated := func() *exec.Cmd {
		f, err := l.File()
		must(t, err)
		defer f.Close()
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", self, "--root", dir+"/root", "--address", "/nonexistent/x")
		cmd.Env = append(os.Environ(), "MINI_TEST_COMMAND=1")
		cmd.ExtraFiles = []*os.File{f}
		start(t, cmd)
		return cmd
	}
	ask := func() net.Conn {
		conn, err := net.Dial("unix", dir+"/s")
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		// An HTTP/2 server sends its settings first, RFC 9113 section 3.4.
		_, err = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		must(t, err)
		return conn
	}
	answered := func(conn net.Conn) {
		t.Helper()
		if _, err := bufio.NewReader(conn).ReadByte(); err != nil {
			t.Errorf("no answer: %v", err)
		}
		conn.Close()
	}
	cmd := activated()
	answered(ask())
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, cmd.Wait())
	waiting := ask()
	activated()
	answered(waiting)
}

// What the standard variables name is told of requests; without them nobody is.
func TestTracing(t *testing.T) {
	needRoot(t)
	spans := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		spans <- r.URL.Path + " " + string(body)
	}))
	defer collector.Close()
	dir := t.TempDir()
	cmd := command("--root", dir+"/root", "--address", dir+"/s", "--log-level", "warn")
	cmd.Env = append(cmd.Env, "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL)
	start(t, cmd)
	conn, err := grpc.NewClient("unix://"+dir+"/s", grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	_, err = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "mini").Stat(t.Context(), "none")
	if !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, cmd.Wait())
	select {
	case got := <-spans:
		for _, want := range []string{"/v1/traces ", "mini-snapshotter", "Snapshots/Stat"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
	default:
		t.Error("no span came")
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	must(t, os.WriteFile(bad, []byte("rot = \"/x\"\n"), 0o600))
	for _, test := range []struct{ args, want string }{
		{"--config " + dir + "/none.toml", "no such file"},
		{"--config " + bad, "unknown key"},
		{"--log-level loud", "log level"},
		{"--root relative --address " + dir + "/s", "not an absolute path"},
		{"--root " + dir + "/a:b --address " + dir + "/s", "colon"},
		{"stray", "unknown argument"},
		{"OTEL_TRACES_EXPORTER=zipkin", "want otlp"},
	} {
		cmd := command(strings.Fields(test.args)...)
		if strings.HasPrefix(test.args, "OTEL_") {
			cmd = command()
			cmd.Env = append(cmd.Env, test.args)
		}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %v: %s", test.args, err, out)
		}
	}
}
