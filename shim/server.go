package shim

import (
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/cgroup"
	"github.com/containerd-mini/mini/shim/internal/container"
)

const (
	// idleTimeout is how long a shim without containers waits for one.
	// containerd that has just started it, or just deleted its last
	// container, is back in milliseconds.
	idleTimeout = 30 * time.Second
	// forgetAfter: a restart of containerd takes less.
	forgetAfter = time.Minute
	// eventsTimeout is how long the end of a shim may wait for a containerd
	// that takes no events.
	eventsTimeout = 2 * time.Second
	// replyTimeout is how long it waits for replies to be written.
	replyTimeout = time.Second
	// seedDir is the node's.
	seedDir = "/run/mini/seed"
	// gcPercent lets a heap grow to 1.6 MB before the first collection, where
	// Go's own 100 would to 4: a shim's lives on 100 kB. A smaller one would
	// cost more than it gives: the first collection makes half a megabyte of tables,
	// which the shim of a single container never needs.
	gcPercent = 40
	// restTimeout is how long after the last request a burst of them is over.
	restTimeout = 2 * time.Second
)

// sigCancel is what threads of glibc's cancel each other with. Its posix_spawn(3)
// leaves it ignored in what it executes: sysdeps/unix/sysv/linux/spawni.c.
const sigCancel = unix.Signal(32)

// Config is what a shim is started with.
type Config struct {
	Namespace string
	// EventAddress is containerd's ttrpc socket.
	EventAddress string
	// Socket is the path of the listening socket, removed at the end.
	Socket string
	// Linger is for a shim that serves whoever comes: it ends when it has been idle for a while, and not
	// with its last container.
	Linger bool
}

// Serve answers containerd on l until it says Shutdown, or until there has
// been nothing to do for a while.
func Serve(l net.Listener, cfg Config) error {
	debug.SetGCPercent(gcPercent)
	// A stop of containerd's service is no reason to lose containers. And what
	// containerd was told to ignore, by nohup(1), its containers are not: a
	// signal that is ignored stays so in execve(2), one with a handler does not.
	if err := agent.Deafen(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, sigCancel); err != nil {
		return err
	}
	a, err := agent.New()
	if err != nil {
		return err
	}
	defer a.Close()
	var once sync.Once
	end := make(chan struct{})
	s := &service{
		namespace: cfg.Namespace, agent: a, socket: cfg.Socket, linger: cfg.Linger,
		events:     newPublisher(cfg.EventAddress, cfg.Namespace),
		containers: map[string]*container.Container{},
		shutdown:   func() { once.Do(func() { close(end) }) },
		cgroups:    cgroup.Root, seed: seedDir, forgetAfter: forgetAfter,
	}
	// One that containerd has forgotten ends by itself.
	s.idle = newIdle(idleTimeout, s.endIfIdle)
	s.rest = newIdle(restTimeout, new(memory).giveBack)
	srv := newServer(s)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err = <-served:
		_ = os.Remove(cfg.Socket)
	case <-end:
		// The reply to Shutdown must be on the wire before the process ends.
		srv.Finish(replyTimeout)
	}
	s.events.close(eventsTimeout)
	return err
}
