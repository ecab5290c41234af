package compile

import (
	"fmt"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// Hooks of one kind: runtime-spec config.md#posix-platform-hooks.
type Hooks struct {
	Name string // "createRuntime"
	List []specs.Hook
}

// AllHooks are the hooks of a spec in the order in which they run.
func AllHooks(h *specs.Hooks) []Hooks {
	if h == nil {
		h = &specs.Hooks{}
	}
	return []Hooks{
		{"prestart", h.Prestart}, //nolint:staticcheck // SA1019: deprecated, not gone
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	}
}

// HookNames are the kinds of hooks that a spec may have, for the features that
// mini announces.
func HookNames() []string {
	var names []string
	for _, kind := range AllHooks(nil) {
		names = append(names, kind.Name)
	}
	return names
}

// hooks checks them, and sees whether some run before the container has its root.
func (b *builder) hooks() error {
	for i, kind := range AllHooks(b.spec.Hooks) {
		for j, h := range kind.List {
			field := fmt.Sprintf("hooks.%s[%d]", kind.Name, j)
			switch {
			case !path.IsAbs(h.Path):
				return invalid(field+".path", "%q: not an absolute path", h.Path)
			case h.Timeout != nil && *h.Timeout <= 0:
				return invalid(field+".timeout", "%d: not a number of seconds", *h.Timeout)
			}
		}
		b.shown = b.shown || i < 3 && len(kind.List) > 0
	}
	b.plan.Waits = b.shown
	return nil
}

// CreateContainerHook compiles the Program of a hook that is a program of the
// host, to run in the namespaces of the container: those of its init, which still
// sees the host's tree. It is trusted, and has all capabilities there.
func CreateContainerHook(spec *specs.Spec, h *specs.Hook) (*program.Plan, error) {
	b := &builder{plan: &program.Plan{}, spec: spec, proc: &specs.Process{}}
	b.addFile(program.FileInit, "", "")
	b.begin()
	if err := b.joinContainer(); err != nil {
		return nil, err
	}
	b.enterPID()
	b.plan.Ops[indexCloseRange].Args[0] = program.Int(program.FdFiles + len(b.plan.Files))
	b.call("", unix.SYS_UMASK, program.Named(0o022, "022"))
	b.gate()
	b.call("start a session", unix.SYS_SETSID) // now, as process says
	b.call("close on exec", unix.SYS_CLOSE_RANGE, program.Int(program.FdSocket), maxFd,
		program.Named(unix.CLOSE_RANGE_CLOEXEC, "CLOSE_RANGE_CLOEXEC"))
	b.call("exec", unix.SYS_EXECVE, program.Str(h.Path), program.Strs(hookArgs(h)), program.Strs(h.Env))
	return b.plan, nil
}

// StartContainerHook compiles the Program of a hook that is a program of the
// container: it may do what the container's own process may, and no more.
func StartContainerHook(spec *specs.Spec, h *specs.Hook, opt Options) (*program.Plan, error) {
	proc := *spec.Process
	proc.Args, proc.Env, proc.Cwd, proc.Terminal = hookArgs(h), h.Env, "/", false
	opt.Path, opt.Home = h.Path, ""
	return Exec(spec, &proc, opt)
}

func hookArgs(h *specs.Hook) []string {
	if len(h.Args) == 0 {
		return []string{h.Path}
	}
	return h.Args
}
