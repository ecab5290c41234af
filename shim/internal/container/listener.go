package container

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// listenerTimeout bounds how long linux.seccomp.listenerPath may take.
const listenerTimeout = 10 * time.Second

// sendListener gives the listener of a process's seccomp filter to whoever is at
// linux.seccomp.listenerPath, with what there is to know of the process:
// runtime-spec config-linux.md#containerprocessstate.
func (p *Process) sendListener(pid int, listener *os.File) error {
	const field = "linux.seccomp.listenerPath"
	c := p.container
	spec := c.cfg.Spec
	state := specs.State{
		Version: specs.Version, ID: c.cfg.ID, Status: specs.StateCreated, Pid: pid,
		Bundle: c.cfg.Bundle, Annotations: spec.Annotations,
	}
	if p.execID != "" {
		state.Status, state.Pid = specs.ContainerState(c.init.State().String()), c.init.Pid()
	}
	data, err := json.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid,
		Metadata: spec.Linux.Seccomp.ListenerMetadata, State: state,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), listenerTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", spec.Linux.Seccomp.ListenerPath)
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	rc, err := listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	cerr := rc.Control(func(fd uintptr) {
		_, _, err = conn.(*net.UnixConn).WriteMsgUnix(data, unix.UnixRights(int(fd)), nil)
	})
	if err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", field, spec.Linux.Seccomp.ListenerPath, err)
	}
	return nil
}
