package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Options say what containerd to start.
type Options struct {
	Version string // "2.4", the default, "2.2" or "1.7"
	CRI     bool   // with the CRI plugin, in a network namespace of its own
	Network bool   // in a network namespace of its own
	Config  string // more of config.toml, after what daemon writes
	Root    string // where an earlier containerd kept what outlives a boot, instead of a place of its own
}

// A Daemon is a running containerd, and the namespace in it that belongs to one test.
type Daemon struct {
	*server
	Namespace string

	t      testing.TB
	before leftovers
}

// server is one containerd.
type server struct {
	Options
	Dir string // all of its files
	bin string // containerd and ctr

	network *network // of its own, or nil

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	client *containerd.Client
}

var (
	shared  = make(map[string]*server) // by version
	running = make(map[*server]bool)
	counter atomic.Int64
)

// Shared gives the test a namespace in a containerd that further tests use too.
func Shared(t testing.TB, version string) *Daemon {
	t.Helper()
	need(t)
	s := shared[version]
	if s == nil {
		var err error
		if s, err = open(Options{Version: version}); err != nil {
			t.Fatal(err)
		}
		shared[version] = s
	}
	return s.lend(t)
}

// Start gives the test a containerd of its own, which ends with it.
func Start(t testing.TB, o Options) *Daemon {
	t.Helper()
	need(t)
	s, err := open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s.lend(t)
}

// Lend gives another test a namespace of its own.
func (d *Daemon) Lend(t testing.TB) *Daemon { return d.lend(t) }

func need(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if os.Getenv(envBase) == "" {
		t.Fatal("daemon.Main was not called from TestMain")
	}
}

func closeShared() error {
	var errs []error
	for _, s := range shared {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// lend makes a namespace for one test.
func (s *server) lend(t testing.TB) *Daemon {
	t.Helper()
	d := &Daemon{server: s, t: t, before: s.leftovers("")}
	// The name begins as the directory of the run does: outer finds the cgroups by it.
	d.Namespace = fmt.Sprintf("%s-%d", filepath.Base(os.Getenv(envBase)), counter.Add(1))
	t.Cleanup(d.finish)
	return d
}

func open(o Options) (*server, error) {
	if o.Version == "" {
		o.Version = "2.4"
	}
	bin, err := Tools("containerd-" + o.Version)
	if err != nil {
		return nil, err
	}
	base := os.Getenv(envBase)
	s := &server{Options: o, bin: bin, Dir: filepath.Join(base, fmt.Sprintf("c%d", counter.Add(1)))}
	if err := os.Mkdir(s.Dir, 0o711); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.Dir+"/config.toml", []byte(Config(s.Dir, o)), 0o644); err != nil {
		return nil, err
	}
	if o.CRI || o.Network {
		// CNI plugins forward packets and add addresses where containerd is: not on the machine.
		if s.network, err = newNetwork(); err != nil {
			return nil, err
		}
	}
	running[s] = true
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// Socket is the address of containerd.
func (s *server) Socket() string { return s.Dir + "/c.sock" }

// Client is a connection that lives as long as the daemon, across restarts.
func (s *server) Client() *containerd.Client { return s.client }

// Pid is the process of containerd.
func (s *server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// start starts containerd and waits until it serves.
func (s *server) start() error {
	log, err := os.OpenFile(s.Dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	path, err := searchPath(os.Getenv(envBase), s.bin)
	if err != nil {
		return err
	}
	cmd := exec.Command(s.bin+"/containerd", "--config", s.Dir+"/config.toml")
	cmd.Env = append(os.Environ(), "PATH="+path)
	cmd.Stdout, cmd.Stderr = log, log
	if err := s.network.do(cmd.Start); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	s.mu.Lock()
	s.cmd, s.exited = cmd, exited
	s.mu.Unlock()

	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-exited:
			return fmt.Errorf("containerd %s ended at its start: %s\n%s", s.Version, cmd.ProcessState, s.logTail())
		default:
		}
		if s.serves() {
			return nil
		}
	}
	return fmt.Errorf("containerd %s does not serve\n%s", s.Version, s.logTail())
}

func (s *server) serves() bool {
	if _, err := os.Stat(s.Socket()); err != nil {
		return false
	}
	if s.client == nil {
		c, err := containerd.New(s.Socket(), containerd.WithTimeout(30*time.Second))
		if err != nil {
			return false
		}
		s.client = c
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	serving, err := s.client.IsServing(ctx)
	return err == nil && serving
}

// end sends sig to containerd and waits for it.
func (s *server) end(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil
	}
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.exited:
	case <-time.After(time.Minute):
		_ = s.cmd.Process.Kill()
		<-s.exited
		return fmt.Errorf("containerd %s did not end on %s\n%s", s.Version, sig, s.logTail())
	}
	s.cmd = nil
	return nil
}

func (s *server) close() error {
	err := s.end(syscall.SIGTERM)
	delete(running, s)
	if s.client != nil {
		s.client.Close()
	}
	if s.network != nil {
		s.network.file.Close()
	}
	return err
}

// Crash kills containerd as a power cut would.
func (d *Daemon) Crash() {
	d.t.Helper()
	if err := d.end(syscall.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
}

// Restart starts containerd again on what it left, after Crash or at once.
func (d *Daemon) Restart() {
	d.t.Helper()
	if err := d.end(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	if err := d.start(); err != nil {
		d.t.Fatal(err)
	}
}

// Context is of the namespace of the test and ends with the test, or after five minutes.
func (d *Daemon) Context() context.Context {
	ctx, cancel := context.WithTimeout(d.t.Context(), 5*time.Minute)
	d.t.Cleanup(cancel)
	return namespaces.WithNamespace(ctx, d.Namespace)
}

// CtrCommand is ctr with the arguments given, in the namespace of the test.
func (d *Daemon) CtrCommand(args ...string) *exec.Cmd {
	return exec.Command(d.bin+"/ctr", append([]string{"-a", d.Socket(), "-n", d.Namespace}, args...)...)
}

// Ctr runs ctr and gives what it wrote to stdout; the test fails if ctr does.
func (d *Daemon) Ctr(args ...string) string {
	d.t.Helper()
	cmd := d.CtrCommand(args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		d.t.Fatalf("ctr %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Import unpacks an image into the namespace of the test.
func (d *Daemon) Import(image string) {
	d.t.Helper()
	d.ImportInto(d.Namespace, image)
}

// ImportInto unpacks an image into another namespace, that of the CRI plugin.
func (d *Daemon) ImportInto(namespace, image string) {
	d.t.Helper()
	archive, err := Archive(image)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Ctr("-n", namespace, "images", "import", archive)
}

// logTail is the end of what containerd and its shims said.
func (s *server) logTail() string {
	data, _ := os.ReadFile(s.Dir + "/log")
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}
