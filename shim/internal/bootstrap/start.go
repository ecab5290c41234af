package bootstrap

import (
	"errors"
	"hash/fnv"
	"io"
	"os"
	"strconv"
	"syscall"
)

// defaultSocketDir is where containerd's shims have their sockets: the path of
// one is at most 108 bytes, unix(7).
const defaultSocketDir = "/run/containerd/s"

// maxStdin bounds what containerd sends: options, at most a config file.
const maxStdin = 16 << 20

// groupAnnotations name the group that shares a shim: runc's own, then the pod
// of the CRI plugin.
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// A Start is what containerd has asked `start` for.
type Start struct {
	args   Args
	params params
	modern bool
}

// late is a `start` that the rest of the program has to see to.
var late *Start

// Late returns it.
func Late() *Start { return late }

// startEarly does what `start` has to, unless it takes TOML to tell which shim
// the container is for.
func startEarly(a *Args, stdin io.Reader) (handled bool, err error) {
	s, err := newStart(a, stdin)
	if err != nil {
		return true, err
	}
	if s.params.options.mayName(groupOption) {
		late = s
		return false, nil
	}
	return true, s.Run("")
}

func newStart(a *Args, stdin io.Reader) (*Start, error) {
	in, err := io.ReadAll(io.LimitReader(stdin, maxStdin))
	if err != nil {
		return nil, wrap("stdin", err)
	}
	p, modern := parseParams(in, a)
	return &Start{*a, p, modern}, nil
}

// Options are those of the runtime, as an Any of protobuf has them.
func (s *Start) Options() (typeURL string, value []byte) {
	return s.params.options.typeURL, s.params.options.value
}

// Run makes sure that a shim serves the container, and answers containerd. The
// group is that of the options, or "".
func (s *Start) Run(shimGroup string) error {
	out, err := s.run(shimGroup)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(out)
	return err
}

func (s *Start) run(shimGroup string) ([]byte, error) {
	dir := defaultSocketDir
	if s.modern && s.params.socketDir != "" {
		dir = s.params.socketDir
	}
	d := daemon{Args: s.args}
	if shimGroup != "" {
		if err := checkName(shimGroup); err != nil {
			return nil, wrap(groupOption, err)
		}
		// Its first container's bundle is not to be kept by who works in it.
		d.dir, d.Linger, d.ID = "/", true, shimGroup
		d.path = SocketPath(dir, d.Address, d.Namespace, groupOption+"\x00"+shimGroup)
	} else {
		group, err := group(".", d.ID)
		if err != nil {
			return nil, err
		}
		d.path = SocketPath(dir, d.Address, d.Namespace, group)
	}
	if err := d.listenAndSpawn(); err != nil {
		return nil, err
	}
	if !s.modern {
		// containerd 1.7 finds the shim again by this file in the
		// bundle, which it leaves to the shim to write.
		if err := os.WriteFile("address", []byte("unix://"+d.path), 0o600); err != nil {
			return nil, err
		}
	}
	return answer(d.path, s.modern), nil
}

// answer is what the containerd that asked understands: see doc.go.
func answer(path string, modern bool) []byte {
	address := "unix://" + path
	switch {
	case modern:
		return result(address)
	case os.Getenv("MAX_SHIM_VERSION") != "":
		return []byte(`{"version":2,"address":` + strconv.Quote(address) + `,"protocol":"ttrpc"}`)
	default:
		return []byte(address)
	}
}

// SocketPath is where the shim of a group listens: the same for all its
// containers, another for each containerd. Who chooses these names may name
// another's group as well: the hash keeps them short, not secret.
func SocketPath(dir, address, namespace, group string) string {
	h := fnv.New128a()
	_, _ = io.WriteString(h, address+"\x00"+namespace+"\x00"+group) // never an error: hash.Hash
	const digits = "0123456789abcdef"
	name := make([]byte, 0, 32)
	for _, b := range h.Sum(nil) {
		name = append(name, digits[b>>4], digits[b&15])
	}
	return dir + "/" + string(name)
}

// group reads from the spec in the bundle which group the container belongs
// to: its own, unless an annotation says otherwise.
func group(bundle, id string) (string, error) {
	const file = "config.json"
	data, err := os.ReadFile(bundle + "/" + file)
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return "", err
	}
	annotations, err := member(data, "annotations")
	if err != nil {
		return "", wrap(file, err)
	}
	if annotations == nil || string(annotations) == "null" {
		return id, nil
	}
	for _, name := range groupAnnotations {
		g, err := text(annotations, name)
		if err != nil {
			return "", wrap(file+": annotations", err)
		}
		if g != "" {
			return g, nil
		}
	}
	return id, nil
}

// A daemon is a shim that may be there already.
type daemon struct {
	Args
	path string // of its socket
	dir  string // its working directory; "" is the bundle
}

// listenAndSpawn returns when the socket is being listened to: by a shim that is
// already there, or by a new one. The directory's lock keeps two starts of the
// same pod apart, and a start from a shim that retires.
func (d *daemon) listenAndSpawn() error {
	dir := parent(d.path)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	lock, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer syscall.Close(lock)
	if err := flock(lock); err != nil {
		return wrap("lock "+dir, err)
	}
	fd, err := listen(d.path)
	if err != nil {
		return wrap("listen on "+d.path, err)
	}
	if fd < 0 {
		return nil
	}
	defer syscall.Close(fd)
	if err := d.spawn(fd); err != nil {
		return errors.Join(wrap("start the shim", err), os.Remove(d.path))
	}
	return nil
}

// parent is the directory of a socket.
func parent(path string) string {
	i := len(path) - 1
	for i > 0 && path[i] != '/' {
		i--
	}
	return path[:i]
}

func flock(fd int) error {
	for {
		if err := syscall.Flock(fd, syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// listen returns a listening socket, or -1 where somebody listens already. A
// socket file that nobody serves was left by a shim that was killed.
func listen(path string) (int, error) {
	addr := &syscall.SockaddrUnix{Name: path}
	fd, err := socket()
	if err != nil {
		return -1, err
	}
	err = syscall.Bind(fd, addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		if !served(addr) {
			err = os.Remove(path)
		} else if err = sendTo(path); err == nil {
			syscall.Close(fd)
			return -1, nil
		}
		if err == nil || errors.Is(err, os.ErrNotExist) { // a shim may be about to end
			err = syscall.Bind(fd, addr)
		}
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err == nil {
		err = syscall.Listen(fd, 128)
	}
	if err != nil {
		syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

func socket() (int, error) {
	return syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
}

// served tells whether somebody listens, as far as we can know: where we cannot,
// for want of descriptors or memory, say, nobody's socket is to go.
func served(addr *syscall.SockaddrUnix) bool {
	fd, err := socket()
	if err != nil {
		return true
	}
	defer syscall.Close(fd)
	err = syscall.Connect(fd, addr)
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT)
}

// ListenerFd is the daemon's listening socket. It is the highest of a table of
// descriptors that the daemon is born with: growing one later, beyond 64, waits
// for an RCU grace period in a process with threads (fs/file.c, expand_fdtable),
// milliseconds in the middle of a request.
const ListenerFd = 255

// spawn starts the daemon: in a session of its own, with nothing open but the
// socket. stdout must not stay open, containerd reads it to its end.
func (d *daemon) spawn(fd int) error {
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(null)
	argv := []string{os.Args[0], "-namespace", d.Namespace, "-id", d.ID, "-address", d.Address, "-socket", d.path}
	if d.Linger {
		argv = append(argv, "-linger")
	}
	files := make([]uintptr, ListenerFd+1)
	for i := range files {
		files[i] = ^uintptr(0) // closed
	}
	files[0], files[1], files[2] = uintptr(null), uintptr(null), uintptr(null)
	files[ListenerFd] = uintptr(fd)
	attr := &syscall.ProcAttr{Dir: d.dir, Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	// By its path, for the name that ps(1) shows; by descriptor where the
	// file has just been replaced.
	const self = "/proc/self/exe"
	exe, err := os.Readlink(self)
	if err != nil {
		return err
	}
	pid, err := syscall.ForkExec(exe, argv, attr)
	if errors.Is(err, os.ErrNotExist) {
		pid, err = syscall.ForkExec(self, argv, attr)
	}
	if err != nil {
		return err
	}
	adjustOOMScore(pid)
	return nil
}

// adjustOOMScore makes the shim a little likelier to be killed than
// containerd, as all shims are. Without the right to, it stays.
func adjustOOMScore(pid int) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil || len(data) == 0 {
		return
	}
	score, err := strconv.Atoi(string(data[:len(data)-1]))
	if err != nil || score >= 1000 {
		return
	}
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(score+1)), 0)
}
