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

// start makes sure that a shim serves this container, and returns the answer
// to containerd.
func start(a *Args, stdin io.Reader) ([]byte, error) {
	in, err := io.ReadAll(io.LimitReader(stdin, maxStdin))
	if err != nil {
		return nil, wrap("stdin", err)
	}
	p, modern := parseParams(in, a)
	dir := defaultSocketDir
	if modern && p.socketDir != "" {
		dir = p.socketDir
	}
	group, err := group(".", a.ID)
	if err != nil {
		return nil, err
	}
	path := SocketPath(dir, a.Address, a.Namespace, group)
	if err := listenAndSpawn(a, path); err != nil {
		return nil, err
	}
	if !modern {
		// containerd 1.7 finds the shim again by this file in the
		// bundle, which it leaves to the shim to write.
		if err := os.WriteFile("address", []byte("unix://"+path), 0o600); err != nil {
			return nil, err
		}
	}
	return answer(path, modern), nil
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

// listenAndSpawn returns when path is being listened to: by a shim that is
// already there, or by a new one. The directory's lock keeps two starts of the
// same pod apart.
func listenAndSpawn(a *Args, path string) error {
	dir := parent(path)
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
	fd, err := listen(path)
	if err != nil {
		return wrap("listen on "+path, err)
	}
	if fd < 0 {
		return nil
	}
	defer syscall.Close(fd)
	if err := spawn(a, path, fd); err != nil {
		return errors.Join(wrap("start the shim", err), os.Remove(path))
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
		if served(addr) {
			syscall.Close(fd)
			return -1, nil
		}
		if err = os.Remove(path); err == nil {
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

func served(addr *syscall.SockaddrUnix) bool {
	fd, err := socket()
	if err != nil {
		return false
	}
	defer syscall.Close(fd)
	return syscall.Connect(fd, addr) == nil
}

// ListenerFd is the daemon's listening socket. It is the highest of a table of
// descriptors that the daemon is born with: growing one later, beyond 64, waits
// for an RCU grace period in a process with threads (fs/file.c, expand_fdtable),
// milliseconds in the middle of a request.
const ListenerFd = 255

// spawn starts the daemon: in the bundle, in a session of its own, with
// nothing open but the socket. stdout must not stay open, containerd reads it
// to its end.
func spawn(a *Args, path string, fd int) error {
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(null)
	argv := []string{os.Args[0], "-namespace", a.Namespace, "-id", a.ID, "-address", a.Address, "-socket", path}
	if a.Debug {
		argv = append(argv, "-debug")
	}
	files := make([]uintptr, ListenerFd+1)
	for i := range files {
		files[i] = ^uintptr(0) // closed
	}
	files[0], files[1], files[2] = uintptr(null), uintptr(null), uintptr(null)
	files[ListenerFd] = uintptr(fd)
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
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
