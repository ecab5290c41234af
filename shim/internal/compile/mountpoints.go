package compile

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// mountPoint is where something is to be attached.
type mountPoint struct {
	dest  string
	how   program.Arg // it is opened
	links bool        // symlinks that lead nowhere are made to lead somewhere
	file  int         // of Plan.Files, what goes there, -1 for a directory
	found func()      // adds what is to be done where it is there already, or nil
}

// target leaves the mount point in slotDest. Where it does not exist, its
// parents are made, and it in the likeness of what goes there:
//
//	open it                   there: done
//	make its parents, and it  by name; what is there already is left alone
//	open it                   there: done
//	ask the shim to make it   a symlink on the way leads nowhere
//	open it
func (b *builder) target(at mountPoint) {
	step := "open mount point " + at.dest
	dest := path.Clean("/" + at.dest)
	exists := b.here()
	b.open(step, dest, at.how, slotDest)
	if dest == "/" {
		if at.found != nil {
			at.found()
		}
		return
	}
	b.plan.Ops[exists].Answers = noEntry
	b.nowhere = b.nowhere[:0]
	b.parents(at.dest, dest)
	parent := root
	if path.Dir(dest) != "/" {
		b.mayLeadNowhere()
		b.open(step, path.Dir(dest), howPath, slotParent)
		parent = program.From(slotParent)
	}
	b.create(at, dest, parent)
	opened := b.mayLeadNowhere()
	b.open(step, dest, at.how, slotDest)
	if at.links {
		for _, i := range b.nowhere {
			b.plan.Ops[i].Answers = noEntry
			b.miss(i)
		}
		b.ask(at, dest)
		b.open(step, dest, at.how, slotDest)
		b.hop(opened)
	}
	if at.found != nil {
		made := b.jump()
		b.hop(exists)
		at.found()
		b.hop(made)
		return
	}
	b.hop(exists)
}

var noEntry = []unix.Errno{unix.ENOENT}

// mayLeadNowhere notes that the next op may meet a symlink that leads nowhere.
func (b *builder) mayLeadNowhere() (next int) {
	b.nowhere = append(b.nowhere, b.here())
	return b.here()
}

// create makes the last component.
func (b *builder) create(at mountPoint, dest string, parent program.Arg) {
	if at.file < 0 {
		b.mkdir(at.dest, parent, path.Base(dest))
		return
	}
	step := "create mount point " + at.dest
	isFile := b.here()
	op := b.call(step, unix.SYS_OPENAT, program.Int(program.FdFiles+at.file), program.Str("."), oPath)
	op.Out, op.Answers = slotTmp, []unix.Errno{unix.ENOTDIR}
	b.mkdir(at.dest, parent, path.Base(dest))
	done := b.jump()
	b.miss(isFile)
	// O_CREAT follows a dangling symlink to where it points, inside
	// the root: images have /etc/resolv.conf like that.
	how := openHow(unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0o644, inRoot,
		"{O_CREAT|O_CLOEXEC, 0644, RESOLVE_IN_ROOT|NO_MAGICLINKS}")
	b.mayLeadNowhere()
	b.open(step, dest, how, slotTmp)
	b.hop(done)
}

// parents makes the directories that lead to a path.
func (b *builder) parents(dest, clean string) {
	parts := strings.Split(strings.Trim(clean, "/"), "/")
	parent := root
	for i, name := range parts[:len(parts)-1] {
		b.mkdir(dest, parent, name)
		if i < len(parts)-2 {
			b.mayLeadNowhere()
			b.open("open mount point "+dest, "/"+path.Join(parts[:i+1]...), howPath, slotParent)
			parent = program.From(slotParent)
		}
	}
}

func (b *builder) mkdir(dest string, parent program.Arg, name string) {
	b.call("create mount point "+dest, unix.SYS_MKDIRAT, parent, program.Str(name), program.Named(0o755, "0755")).
		Answers = []unix.Errno{unix.EEXIST}
}

// ask has the shim make the mount point. mkdir(2) does not follow a symlink that
// leads nowhere, and to go where that leads one has to read it, piece by piece:
// the agent cannot. An image whose /var/run is a link to a /run that it does not
// have is the common case.
func (b *builder) ask(at mountPoint, dest string) {
	step := "make mount point " + at.dest
	i := len(b.plan.MountPoints)
	b.plan.MountPoints = append(b.plan.MountPoints, program.MountPoint{Path: dest, File: at.file})
	b.call(step, unix.SYS_WRITE, gateFd, program.Bytes([]byte{program.SaysMissing, byte(i), byte(i >> 8)}, dest), program.Int(3))
	b.letThrough(step)
}

// MakeDirs is the Program of a process that makes directories within each other,
// the last of them a file if so wanted, below the one that is its Files[0], as
// the root of the user namespace that is its Files[1], if there is one. It waits
// when it is done.
func MakeDirs(dest string, names []string, file, user bool) *program.Program {
	b := &builder{plan: &program.Plan{}}
	b.begin()
	files := 1
	if user {
		files = 2
		b.join("user", program.FdFiles+1, "", unix.CLONE_NEWUSER)
		b.becomeRoot()
	}
	b.plan.Ops[indexCloseRange].Args[0] = program.Int(program.FdFiles + files)
	parent := program.Int(program.FdFiles)
	for i, name := range names {
		if file && i == len(names)-1 {
			b.call("create mount point "+dest, unix.SYS_OPENAT, parent, program.Str(name),
				program.Named(unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, "O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC"),
				program.Named(0o644, "0644")).Answers = []unix.Errno{unix.EEXIST}
			break
		}
		b.mkdir(dest, parent, name)
		b.call("open mount point "+dest, unix.SYS_OPENAT, parent, program.Str(name),
			program.Named(unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC")).Out = slotParent
		parent = program.From(slotParent)
	}
	b.wait("made")
	b.call("", unix.SYS_EXIT_GROUP, program.Int(0))
	return &b.plan.Program
}

// attach moves a detached mount to slotDest.
func (b *builder) attach(step string, fd program.Arg) {
	b.call(step, unix.SYS_MOVE_MOUNT, fd, emptyPath, program.From(slotDest), emptyPath, fromFdToFd)
}
