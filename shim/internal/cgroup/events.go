package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// events is the content of cgroup.events.
type events struct{ populated, frozen bool }

func parseEvents(b []byte) events {
	var ev events
	for line := range bytes.Lines(b) {
		key, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		on := string(value) == "1"
		switch string(key) {
		case "populated":
			ev.populated = on
		case "frozen":
			ev.frozen = on
		}
	}
	return ev
}

func readEvents(dir int) (events, error) {
	b, err := readFile(dir, "cgroup.events")
	return parseEvents(b), err
}

// Frozen tells whether what is put into a cgroup, an open directory, would not
// run: it is frozen, or about to be, or one above it is.
func Frozen(dir int) (bool, error) {
	asked, err := readFile(dir, "cgroup.freeze")
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(string(asked)) == "1" {
		return true, nil
	}
	ev, err := readEvents(dir)
	return ev.frozen, err
}

// await waits until cgroup.events satisfies done.
func (g *Group) await(ctx context.Context, done func(events) bool) error {
	w, err := g.watch("cgroup.events")
	if err != nil {
		return err
	}
	defer w.close()
	for {
		b, err := w.read(nil)
		if err != nil {
			return err
		}
		if done(parseEvents(b)) {
			return nil
		}
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
}

// Freeze stops every process of the cgroup and of those below it, and returns
// when all have stopped. If they do not within ctx, they are let go again.
func (g *Group) Freeze(ctx context.Context) error {
	if err := g.write("cgroup.freeze", "1"); err != nil {
		return g.err("freeze", err)
	}
	err := g.await(ctx, func(ev events) bool { return ev.frozen || !ev.populated })
	if err == nil {
		return nil
	}
	err = g.err("freeze", err)
	if e := g.write("cgroup.freeze", "0"); e != nil && !gone(e) {
		err = errors.Join(err, g.err("thaw", e))
	}
	return err
}

// Thaw undoes Freeze, and returns when the processes may run. They may not
// while an ancestor is frozen.
func (g *Group) Thaw(ctx context.Context) error {
	if err := g.write("cgroup.freeze", "0"); err != nil {
		return g.err("thaw", err)
	}
	if err := g.await(ctx, func(ev events) bool { return !ev.frozen }); err != nil {
		return g.err("thaw", err)
	}
	return nil
}

// Kill sends SIGKILL to every process of the cgroup and of those below it,
// those that are being forked included (cgroup.kill, Linux 5.14). Frozen ones
// die too. It does not wait. A cgroup that is gone has none.
func (g *Group) Kill() error {
	err := g.write("cgroup.kill", "1")
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = g.killThreaded()
	}
	if err != nil && !gone(err) {
		return g.err("kill", err)
	}
	return nil
}

// killThreaded is for a cgroup that its processes have made threaded, where
// they see a cgroup file system without nsdelegate: the kernel refuses
// cgroup.kill there. They are frozen first, so that none forks meanwhile.
func (g *Group) killThreaded() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// One that does not freeze is killed all the same.
	_ = g.Freeze(ctx)
	pids, err := g.Pids()
	for _, pid := range pids {
		if kerr := unix.Kill(pid, unix.SIGKILL); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
			err = errors.Join(err, os.NewSyscallError("kill", kerr))
		}
	}
	return errors.Join(err, g.write("cgroup.freeze", "0"))
}

// stuck describes the processes that keep the cgroup populated: in state D
// nothing but the kernel's wait channel tells what they wait for.
func (g *Group) stuck() string {
	const most = 4
	pids, err := g.Pids()
	if err != nil || len(pids) == 0 {
		return "populated"
	}
	var b bytes.Buffer
	for i, pid := range pids {
		if i == most {
			fmt.Fprintf(&b, ", and %d more", len(pids)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "pid %d", pid)
		describe(&b, pid)
	}
	return b.String()
}

// describe adds what proc_pid_stat(5) and proc_pid_wchan(5) say of pid.
func describe(b *bytes.Buffer, pid int) {
	dir, err := unix.Open(fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(dir)
	if stat, err := readFile(dir, "stat"); err == nil {
		// PID (COMM) STATE ..., and COMM may itself hold parentheses.
		if _, rest, ok := bytes.Cut(stat, []byte(" ")); ok {
			if i := bytes.LastIndexByte(rest, ')'); i >= 0 && len(rest) > i+2 {
				fmt.Fprintf(b, " %q state %c", rest[1:i], rest[i+2])
			}
		}
	}
	if wchan, err := readFile(dir, "wchan"); err == nil && len(wchan) > 0 && string(wchan) != "0" {
		fmt.Fprintf(b, " in %s", wchan)
	}
}
