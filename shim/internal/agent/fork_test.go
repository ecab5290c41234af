package agent

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// forking has the process fork, and its child go on with ops; parent is what the
// parent does with the child's pidfd.
func forking(parent []program.Op, ops ...program.Op) []program.Op {
	zero := program.Int(0)
	head := []program.Op{
		{Nr: unix.SYS_CLONE3, Args: []program.Arg{
			program.Vec("args", program.Int(unix.CLONE_PARENT|unix.CLONE_NEWPID), zero, zero, zero, zero, zero, zero, zero), program.Int(64),
		}, Out: 1},
		{Nr: unix.SYS_PIDFD_OPEN, Args: []program.Arg{program.From(1), zero}, Out: 4, Answers: []unix.Errno{unix.EINVAL}, Else: len(parent)},
	}
	return append(append(head, parent...), ops...)
}

func tell() []program.Op {
	iov := program.Vec("iov", program.Str("p"), program.Int(1))
	// A control message of 20 bytes in slots 2 to 4.
	return []program.Op{
		{Nr: program.Let, Args: []program.Arg{program.Int(unix.SizeofCmsghdr + 4)}, Out: 2},
		{Nr: program.Let, Args: []program.Arg{program.Int(unix.SOL_SOCKET | unix.SCM_RIGHTS<<32)}, Out: 3},
		{Nr: unix.SYS_SENDMSG, Args: []program.Arg{program.Int(3), program.Vec("msg", program.Int(0), program.Int(0), iov, program.Int(1),
			program.Addr(2), program.Int(unix.SizeofCmsghdr+8), program.Int(0)), program.Int(0)}},
		{Nr: unix.SYS_EXIT_GROUP, Args: []program.Arg{program.Int(0)}},
	}
}

func startFork(t *testing.T, ops []program.Op) (*Process, *os.File, error) {
	t.Helper()
	return startCommand(t, Command{Program: &program.Program{Ops: ops}, Forks: true})
}

// TestFork: the child is the process, whoever of the two is first; and whichever
// of them fails, none is left.
func TestFork(t *testing.T) {
	p, out, err := startFork(t, append(forking(tell(), gate...), cloexec, execve("/bin/sh", "-c", "echo $$; exit 7")))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ws, err := p.Wait(); err != nil || ws.ExitStatus() != 7 {
		t.Errorf("%v %v", ws, err)
	}
	buf := make([]byte, 10)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "1\n" {
		t.Errorf("%q %v", buf[:n], err)
	}

	fails := program.Op{Nr: program.Let, Args: []program.Arg{program.Int(-int64(unix.EXDEV))}, Step: "fail"}
	kills := program.Op{Nr: unix.SYS_KILL, Args: []program.Arg{program.Int(0), program.Int(9)}}
	for name, ops := range map[string][]program.Op{
		"child":        forking(tell(), fails),
		"child late":   forking(append([]program.Op{{Nr: unix.SYS_SCHED_YIELD}}, tell()...), fails),
		"child leads":  forking(tell(), program.Op{Nr: unix.SYS_SETSID}, fails),
		"parent":       forking([]program.Op{fails}, gate...),
		"before":       append([]program.Op{fails}, forking(tell(), gate...)...),
		"parent dies":  forking([]program.Op{kills}, gate...),
		"parent quiet": forking([]program.Op{{Nr: unix.SYS_EXIT_GROUP, Args: []program.Arg{program.Int(0)}}}, fails),
	} {
		_, _, err := startFork(t, ops)
		var step *StepError
		if err == nil || !strings.Contains(name, "dies") && (!errors.As(err, &step) || step.Errno != unix.EXDEV) {
			t.Errorf("%s: %v", name, err)
		}
		if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("%s: a child is left: %v", name, err)
		}
	}
}
