package compile

import (
	"fmt"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

var (
	cwd        = program.Named(int64(unix.AT_FDCWD), "AT_FDCWD")
	null       = program.Named(0, "NULL")
	emptyPath  = program.Str("")
	atEmpty    = program.Named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH")
	root       = program.Int(fdRoot)
	oPath      = program.Named(unix.O_PATH|unix.O_CLOEXEC, "O_PATH|O_CLOEXEC")
	fromFdToFd = program.Named(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, "F_EMPTY_PATH|T_EMPTY_PATH")
	fromFd     = program.Named(unix.MOVE_MOUNT_F_EMPTY_PATH, "F_EMPTY_PATH")
)

// rootPath is the root as the spec names it, absolute.
func rootPath(spec *specs.Spec, bundle string) string {
	if filepath.IsAbs(spec.Root.Path) {
		return spec.Root.Path
	}
	return filepath.Join(bundle, spec.Root.Path)
}

// root makes the handed-over mount the root, and lets go of the host's tree
// before any path of the container is looked at: from here on there is no way
// out for a path, whatever an image's symlinks say. Only hooks want to see both
// trees: for them the root comes where the spec says, and setUp makes it the root
// when they are done. Every path of the container is looked up below its
// descriptor in any case.
func (b *builder) root() error {
	if b.spec.Root.Path == "" {
		return invalid("root.path", "missing")
	}
	if !b.fromSeed() {
		// The copy of the host's tree must not propagate what happens
		// here: mount_namespaces(7), pivot_root(2).
		b.call("make the old tree private", unix.SYS_MOUNT, null, program.Str("/"), null,
			program.Named(unix.MS_REC|unix.MS_PRIVATE, "MS_REC|MS_PRIVATE"), null)
	}
	if b.shown {
		at := rootPath(b.spec, b.opt.Bundle)
		b.call("mount the root on "+at, unix.SYS_MOVE_MOUNT, root, emptyPath, cwd, program.Str(at), fromFd)
		return nil
	}
	b.call("mount the root", unix.SYS_MOVE_MOUNT, root, emptyPath, cwd, program.Str("/"), fromFd)
	b.pivot()
	return nil
}

// setUp waits for the hooks, if there are any.
func (b *builder) setUp() error {
	if b.shown {
		b.wait("wait for hooks")
		b.pivot()
	}
	return nil
}

func (b *builder) pivot() {
	b.call("enter the root", unix.SYS_FCHDIR, root)
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top
	// of the new one, and is unmounted from there.
	b.call("pivot_root", unix.SYS_PIVOT_ROOT, program.Str("."), program.Str("."))
	b.call("detach the old root", unix.SYS_UMOUNT2, program.Str("."), program.Named(unix.MNT_DETACH, "MNT_DETACH"))
	b.call("enter the root", unix.SYS_CHDIR, program.Str("/"))
}

// sealRoot gives the root its propagation and makes it read-only, after all
// mount points have been made.
func (b *builder) sealRoot() error {
	if p := b.spec.Linux.RootfsPropagation; p != "" {
		prop, ok := propagations[p]
		if !ok {
			return invalid("linux.rootfsPropagation", "%q: unknown", p)
		}
		b.setattr("make the root "+p, root, mountAttr{propagation: prop.flag}, prop.recursive)
	}
	if b.spec.Root.Readonly {
		b.setattr("make the root read-only", root, mountAttr{set: unix.MOUNT_ATTR_RDONLY}, false)
	}
	return nil
}

// mountAttr is struct mount_attr: mount_setattr(2).
type mountAttr struct {
	set, clr    uint64
	propagation uint64
}

func (b *builder) setattr(step string, fd program.Arg, a mountAttr, recursive bool) {
	flags := atEmpty
	if recursive {
		flags = program.Named(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, "AT_EMPTY_PATH|AT_RECURSIVE")
	}
	text := fmt.Sprintf("{set=%s, clr=%s, propagation=%s}", attrText(a.set), attrText(a.clr), propagationText(a.propagation))
	b.call(step, unix.SYS_MOUNT_SETATTR, fd, emptyPath, flags,
		program.Vec(text, program.Int(a.set), program.Int(a.clr), program.Int(a.propagation), program.Int(0)),
		program.Int(unix.MOUNT_ATTR_SIZE_VER0))
}

// openHow is struct open_how: openat2(2).
func openHow(flags, mode, resolve uint64, text string) program.Arg {
	return program.Vec(text, program.Int(flags), program.Int(mode), program.Int(resolve))
}

const sizeofOpenHow = 24

// inRoot resolves as a process of the container would, but through no magic
// link of /proc.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

var howPath = openHow(unix.O_PATH|unix.O_CLOEXEC, 0, inRoot, "{O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT|NO_MAGICLINKS}")

// howPlain follows no symlink at all: for what must be where it says.
var howPlain = openHow(unix.O_PATH|unix.O_CLOEXEC, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS,
	"{O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT|NO_SYMLINKS}")

// open adds an openat2 below the root.
func (b *builder) open(step, path string, how program.Arg, out program.Slot) *program.Op {
	op := b.call(step, unix.SYS_OPENAT2, root, program.Str(path), how, program.Int(sizeofOpenHow))
	op.Out = out
	return op
}
