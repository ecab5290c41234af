package compile

import (
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// defaultPath is where commands are looked for when process.env has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process is the last part of every Program: from a place in the right
// namespaces to execve(2).
//
//	keyring, terminal, limits     still with all capabilities
//	working directory
//	identity                      ids, capabilities
//	pid namespace                 of a container that runs: to be seen there
//	session                       after the gate for one that forks
//	is there something to run     so that Create fails, not Start
//	--- gate ---
//	seccomp                       binds nothing but what follows
//	execve
func (b *builder) process() error {
	if err := b.checkProcess(); err != nil {
		return err
	}
	b.keyring()
	if !b.hasNamespace(specs.UserNamespace) {
		if err := b.hostOnly(); err != nil {
			return err
		}
	}
	for _, step := range []func() error{
		b.scheduler, func() error { return b.affinity("final") }, b.personality, b.memoryPolicy,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	b.ownTerminal()
	// Everything but stdio and the gate goes, and the master that waits
	// there: no descriptor of a directory may serve as a way out of the
	// root (CVE-2024-21626).
	first := program.FdAgent
	if b.proc.Terminal {
		first++
	}
	b.call("close all files", unix.SYS_CLOSE_RANGE, program.Int(first), maxFd, program.Int(0))
	b.cwd()
	filter, err := b.seccomp()
	if err != nil {
		return err
	}
	final, err := b.identity(filter != nil)
	if err != nil {
		return err
	}
	b.enterPID()
	if !b.plan.Forks {
		b.session()
	}
	b.cwdAsUser()
	paths := b.lookup()
	// Not later: a profile may know nothing of close_range(2).
	b.call("close on exec", unix.SYS_CLOSE_RANGE, program.Int(program.FdSocket), maxFd,
		program.Named(unix.CLOSE_RANGE_CLOEXEC, "CLOSE_RANGE_CLOEXEC"))
	b.gate()
	if b.plan.Forks {
		// Not earlier: one whose parent was killed before it could tell of it
		// the shim finds by its process group, and reaps. Else it would stay,
		// and with it all of its pid namespace: pid_namespaces(7).
		b.session()
	}
	if filter != nil {
		b.add(*filter)
		b.plan.Filter = filter
		if filter.Out == slotListener {
			b.listener()
		}
	}
	b.plan.Add(final...)
	b.execve(paths)
	return nil
}

func (b *builder) checkProcess() error {
	p := b.proc
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return invalid("process.args", "missing")
	case !path.IsAbs(p.Cwd):
		return invalid("process.cwd", "%q: not an absolute path", p.Cwd)
	}
	for i, s := range p.Args {
		if strings.IndexByte(s, 0) >= 0 {
			return invalid(fmt.Sprintf("process.args[%d]", i), "contains NUL")
		}
	}
	for i, s := range p.Env {
		if strings.IndexByte(s, 0) >= 0 {
			return invalid(fmt.Sprintf("process.env[%d]", i), "contains NUL")
		}
	}
	return nil
}

// session makes the process the leader of a session, with its terminal.
func (b *builder) session() {
	b.call("start a session", unix.SYS_SETSID)
	if b.proc.Terminal {
		b.call("take the terminal", unix.SYS_IOCTL, program.Int(0), program.Named(unix.TIOCSCTTY, "TIOCSCTTY"), program.Int(0))
	}
}

// keyring gives the process the container's session keyring, by name:
// session-keyring(7). Without it an exec too would hold the shim's, and with that
// the host's keys.
func (b *builder) keyring() {
	b.call("join a session keyring", unix.SYS_KEYCTL,
		program.Named(unix.KEYCTL_JOIN_SESSION_KEYRING, "KEYCTL_JOIN_SESSION_KEYRING"), program.Str("_ses."+b.opt.ID)).
		Answers = []unix.Errno{unix.ENOSYS, unix.EPERM}
}

// ownTerminal lets the process's user open /dev/pts/0 by name. Pipes are the
// user's from the start: package stdio made them so.
func (b *builder) ownTerminal() {
	if b.proc.User.UID == 0 || !b.proc.Terminal {
		return
	}
	b.call("give the terminal to the user", unix.SYS_FCHOWNAT, program.Int(0), emptyPath,
		program.Int(b.proc.User.UID), program.Int(-1), atEmpty)
}

// cwd enters process.cwd, made if it is missing as other runtimes do.
func (b *builder) cwd() {
	dir := path.Clean(b.proc.Cwd)
	step := "enter the working directory " + dir
	exists := b.here()
	b.openCwd(step, dir)
	if dir != "/" {
		b.plan.Ops[exists].Answers = []unix.Errno{unix.ENOENT}
		prefix := ""
		for part := range strings.SplitSeq(dir[1:], "/") {
			prefix += "/" + part
			b.call(step, unix.SYS_MKDIRAT, cwd, program.Str(prefix), program.Named(0o755, "0755")).
				Answers = []unix.Errno{unix.EEXIST}
		}
		b.openCwd(step, dir)
		b.hop(exists)
	}
	refused := b.here()
	b.call(step, unix.SYS_FCHDIR, program.From(slotTmp))
	if b.proc.User.UID != 0 {
		// A user may go where root may not (NFS): tried again later.
		b.plan.Ops[refused].Answers = []unix.Errno{unix.EACCES, unix.EPERM}
		b.preset(slotCwd, ^uint64(unix.EACCES)+1)
		b.add(program.Op{Nr: program.Let, Args: []program.Arg{program.Int(0)}, Out: slotCwd})
		b.miss(refused)
	}
	b.call(step, unix.SYS_CLOSE, program.From(slotTmp))
}

// cwdAsUser is the second try: it fails only if the first did too.
func (b *builder) cwdAsUser() {
	if b.proc.User.UID == 0 {
		return
	}
	dir := path.Clean(b.proc.Cwd)
	step := "enter the working directory " + dir
	b.openCwd(step, dir).Answers = []unix.Errno{unix.EACCES, unix.EPERM}
	opened := b.here() - 1
	b.call(step, unix.SYS_FCHDIR, program.From(slotTmp)).Answers = []unix.Errno{unix.EACCES, unix.EPERM}
	entered := b.here() - 1
	b.miss(opened)
	b.miss(entered)
	b.add(program.Op{Nr: program.Let, Args: []program.Arg{program.From(slotCwd)}, Step: step})
	b.hop(entered)
	b.call(step, unix.SYS_CLOSE_RANGE, program.Int(program.FdAgent+1), maxFd, program.Int(0))
}

func (b *builder) openCwd(step, dir string) *program.Op {
	how := openHow(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, unix.RESOLVE_NO_MAGICLINKS,
		"{O_PATH|O_DIRECTORY|O_CLOEXEC, RESOLVE_NO_MAGICLINKS}")
	op := b.call(step, unix.SYS_OPENAT2, cwd, program.Str(dir), how, program.Int(sizeofOpenHow))
	op.Out = slotTmp
	return op
}

// lookup finds the program before the gate, so that what cannot be run is an
// error of Create. It returns the candidates; which of them it is, is known
// when the Program runs, and left in slotPath.
func (b *builder) lookup() []string {
	name := b.proc.Args[0]
	if b.opt.Path != "" {
		name = b.opt.Path
	}
	step := fmt.Sprintf("exec: %q", name)
	candidates, search := []string{name}, !strings.Contains(name, "/")
	if search {
		candidates = pathCandidates(name, b.proc.Env)
	}
	var found []int
	for _, c := range candidates {
		isDir := b.here()
		// A directory passes for executable: access(2).
		op := b.call(step, unix.SYS_OPENAT, cwd, program.Str(c),
			program.Named(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC"))
		op.Out, op.Answers = slotTmp, []unix.Errno{unix.ENOTDIR, unix.ENOENT, unix.EACCES}
		b.call(step, unix.SYS_CLOSE, program.From(slotTmp))
		var next int
		if search {
			next = b.jump()
		} else {
			b.fail(step, unix.EISDIR)
		}
		b.miss(isDir)
		access := b.here()
		b.call(step, unix.SYS_FACCESSAT2, cwd, program.Str(c), program.Named(unix.X_OK, "X_OK"), program.Named(unix.AT_EACCESS, "AT_EACCESS"))
		if search {
			b.plan.Ops[access].Answers = []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES}
		}
		found = append(found, b.here())
		b.add(program.Op{Nr: program.Let, Args: []program.Arg{program.Str(c)}, Out: slotPath})
		if search {
			b.miss(access)
			b.hop(next)
		}
	}
	if search {
		b.fail(step+": executable file not found in $PATH", unix.ENOENT)
	}
	for _, i := range found {
		b.hop(i)
	}
	return candidates
}

func pathCandidates(name string, env []string) []string {
	search := defaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	var out []string
	for dir := range strings.SplitSeq(search, ":") {
		// An empty entry means the working directory, which is not
		// searched: Go's os/exec refuses it too (ErrDot).
		if dir != "" {
			out = append(out, path.Join(dir, name))
		}
	}
	return out
}

func (b *builder) execve(candidates []string) {
	env := b.proc.Env
	if !hasEnv(env, "HOME") && b.opt.Home != "" {
		env = append(env[:len(env):len(env)], "HOME="+b.opt.Home)
	}
	what := candidates[0]
	if len(candidates) > 1 {
		what = b.proc.Args[0]
	}
	b.call(fmt.Sprintf("exec: %q", what), unix.SYS_EXECVE, program.From(slotPath), program.Strs(b.proc.Args), program.Strs(env))
}

func hasEnv(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}

// rlimitNames: getrlimit(2).
var rlimitNames = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}

func (b *builder) rlimits() error {
	seen := map[string]bool{}
	for i, r := range b.proc.Rlimits {
		field := fmt.Sprintf("process.rlimits[%d]", i)
		n, ok := rlimitNames[r.Type]
		switch {
		case !ok:
			return invalid(field+".type", "%q: unknown", r.Type)
		case seen[r.Type]:
			return invalid(field+".type", "%s: given twice", r.Type)
		case r.Soft > r.Hard:
			return invalid(field+".soft", "%d: above hard %d", r.Soft, r.Hard)
		}
		seen[r.Type] = true
		b.call(fmt.Sprintf("set %s to %d:%d", r.Type, r.Soft, r.Hard), unix.SYS_PRLIMIT64, program.Int(0), program.Named(n, r.Type),
			program.Vec(fmt.Sprintf("{%d, %d}", r.Soft, r.Hard), program.Int(r.Soft), program.Int(r.Hard)), null)
	}
	return nil
}
