package compile

import (
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// terminal opens a pty of the container's own devpts and makes its slave the
// process's stdio. The master goes to the shim with the gate's message: pty(7),
// ioctl_tty(2).
func (b *builder) terminal() error {
	if !b.proc.Terminal {
		return nil
	}
	const step = "open a terminal in /dev/pts"
	// No name of a slave is ever looked up: TIOCGPTPEER asks the master
	// for it (CVE-2025-52565). O_NONBLOCK, should this be a fifo that the
	// container put there; the shim checks what it gets.
	how := openHow(unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0, unix.RESOLVE_NO_SYMLINKS,
		"{O_RDWR|O_NOCTTY|O_NONBLOCK|O_CLOEXEC, RESOLVE_NO_SYMLINKS}")
	b.call(step, unix.SYS_OPENAT2, cwd, program.Str("/dev/pts/ptmx"), how, program.Int(sizeofOpenHow)).Out = slotMaster
	b.call(step, unix.SYS_IOCTL, program.From(slotMaster), program.Named(unix.TIOCSPTLCK, "TIOCSPTLCK"),
		program.Bytes(make([]byte, 8), "[0]"))
	b.call(step, unix.SYS_IOCTL, program.From(slotMaster), program.Named(unix.TIOCGPTPEER, "TIOCGPTPEER"),
		program.Named(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, "O_RDWR|O_NOCTTY|O_CLOEXEC")).Out = slotSlave
	if size := b.proc.ConsoleSize; size != nil {
		ws, err := consoleSize(size)
		if err != nil {
			return err
		}
		b.call("set the terminal's size", unix.SYS_IOCTL, program.From(slotSlave), program.Named(unix.TIOCSWINSZ, "TIOCSWINSZ"), ws)
	}
	for fd := range 3 {
		b.call(step, unix.SYS_DUP3, program.From(slotSlave), program.Int(fd), program.Int(0))
	}
	// The master takes the place of the agent's own file, and waits there
	// for the gate.
	b.call(step, unix.SYS_DUP3, program.From(slotMaster), program.Int(program.FdAgent), program.Named(unix.O_CLOEXEC, "O_CLOEXEC"))
	b.preset(slotCmsgLen, unix.SizeofCmsghdr+4)
	b.preset(slotCmsgType, unix.SOL_SOCKET|unix.SCM_RIGHTS<<32)
	b.preset(slotCmsgFd, program.FdAgent)
	if b.proc == b.spec.Process && !b.devIsBind() {
		b.console()
	}
	return nil
}

// console puts the terminal at /dev/console: runtime-spec
// config-linux.md#default-devices. From descriptor to descriptor.
func (b *builder) console() {
	const step = "bind the terminal on /dev/console"
	made := b.here()
	op := b.call(step, unix.SYS_OPENAT, program.From(slotDev), program.Str("console"),
		program.Named(unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, "O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC"),
		program.Named(0o600, "0600"))
	op.Answers = []unix.Errno{unix.EEXIST}
	b.miss(made)
	b.call(step, unix.SYS_OPEN_TREE, program.From(slotSlave), emptyPath,
		program.Named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH,
			"OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH")).Out = slotTmp
	// Without MOVE_MOUNT_T_SYMLINKS a symlink is not followed.
	b.call(step, unix.SYS_MOVE_MOUNT, program.From(slotTmp), emptyPath, program.From(slotDev), program.Str("console"), fromFd)
}

// gate tells the shim that all is ready, and waits to be let through.
func (b *builder) gate() {
	const step = "wait for start"
	if !b.proc.Terminal {
		b.wait(step)
		return
	}
	b.sendFd(step, program.SaysReady, slotCmsgLen, program.Int(program.FdAgent))
	b.call(step, unix.SYS_CLOSE, program.Int(program.FdAgent))
	b.letThrough(step)
}

// wait is a gate.
func (b *builder) wait(step string) {
	b.call(step, unix.SYS_WRITE, gateFd, program.Str(string(byte(program.SaysReady))), program.Int(1))
	b.letThrough(step)
}

func (b *builder) letThrough(step string) {
	b.call(step, unix.SYS_READ, gateFd, program.Bytes(make([]byte, 8), "buf"), program.Int(1)).EOF = true
}

var gateFd = program.Named(program.FdSocket, "gate")
