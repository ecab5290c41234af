package daemon

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A network is a network namespace for a containerd and its clients: what CNI plugins add and forward
// is not the machine's. It lives as long as its descriptor and its processes.
type network struct{ file *os.File }

func newNetwork() (n *network, err error) {
	onThread(func() { n, err = makeNetwork() })
	return n, err
}

// onThread has f done by a thread that ends with it, since it leaves its namespaces. The first thread of the
// process does not end.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and only the first one's is unlocked
		if unix.Gettid() == unix.Getpid() {
			onThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// makeNetwork leaves the thread that it is called on in the new network.
func makeNetwork() (*network, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare CLONE_NEWNET: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("lo: %w", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	return &network{f}, nil
}

// loopbackUp is netdevice(7)'s way.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// do has f done by a thread of the network: so are its sockets, and its children.
func (n *network) do(f func() error) (err error) {
	if n == nil {
		return f()
	}
	onThread(func() {
		if err = unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err == nil {
			err = f()
		}
	})
	return err
}

// Network is the path of the network namespace of containerd, for nsenter --net=PATH, as long as the test.
func (s *server) Network() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.network.file.Fd())
}

// StartHere starts a client of containerd in containerd's network.
func (s *server) StartHere(cmd *exec.Cmd) error { return s.network.do(cmd.Start) }

// Dial connects to an address of containerd's network.
func (s *server) Dial(network, address string) (c net.Conn, err error) {
	err = s.network.do(func() (err error) {
		c, err = net.DialTimeout(network, address, 10*time.Second)
		return err
	})
	return c, err
}
