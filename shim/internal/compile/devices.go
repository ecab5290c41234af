package compile

import (
	"fmt"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// defaultDevices: runtime-spec config-linux.md#default-devices. /dev/ptmx is a
// link and /dev/console belongs to the terminal.
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

// devLinks: runtime-spec runtime-linux.md#dev-symbolic-links.
var devLinks = []struct{ name, target string }{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"ptmx", "pts/ptmx"},
}

// devices fills /dev, unless the spec brings one of its own by a bind mount.
func (b *builder) devices() error {
	for i, d := range b.spec.Linux.Devices {
		if err := checkDevice(fmt.Sprintf("linux.devices[%d]", i), d); err != nil {
			return err
		}
	}
	if b.devIsBind() {
		return nil
	}
	// A /dev that is a symlink to nowhere is nobody's mistake.
	b.target(mountPoint{dest: "/dev", how: howPath, file: -1})
	// A directory, opened once: everything below is made by name in it,
	// and no symlink of the image is followed (CVE-2026-41579).
	b.call("open /dev", unix.SYS_OPENAT, program.From(slotDest), program.Str("."),
		program.Named(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_PATH|O_DIRECTORY|O_CLOEXEC")).Out = slotDev
	given := map[string]bool{}
	for i, d := range b.spec.Linux.Devices {
		given[path.Clean(d.Path)] = true
		b.device(d, fmt.Sprintf("linux.devices[%d].path", i))
	}
	for _, d := range defaultDevices {
		if !given[d.Path] {
			b.device(d, "linux.devices")
		}
	}
	for _, l := range devLinks {
		b.call("link /dev/"+l.name, unix.SYS_SYMLINKAT, program.Str(l.target), program.From(slotDev), program.Str(l.name)).
			Answers = []unix.Errno{unix.EEXIST}
	}
	return nil
}

// devIsBind tells whether /dev comes from the host.
func (b *builder) devIsBind() bool {
	for _, m := range b.spec.Mounts {
		if path.Clean(m.Destination) != "/dev" {
			continue
		}
		for _, o := range m.Options {
			if o == "bind" || o == "rbind" {
				return true
			}
		}
		return m.Type == "bind"
	}
	return false
}

var deviceTypes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

func checkDevice(field string, d specs.LinuxDevice) error {
	if _, ok := deviceTypes[d.Type]; !ok {
		return invalid(field+".type", "%q: want c, u, b or p", d.Type)
	}
	if !path.IsAbs(d.Path) || path.Clean(d.Path) == "/" {
		return invalid(field+".path", "%q: not an absolute path of a file", d.Path)
	}
	if d.UID != nil && *d.UID == noID {
		return invalid(field+".uid", "%d: not an id", *d.UID)
	}
	if d.GID != nil && *d.GID == noID {
		return invalid(field+".gid", "%d: not an id", *d.GID)
	}
	return nil
}

// device makes one. In a user namespace that is the privilege of the host, whose
// own does instead: mknod(2).
func (b *builder) device(d specs.LinuxDevice, field string) {
	if b.hasNamespace(specs.UserNamespace) && d.Type != "p" {
		b.bindDevice(d, field)
		return
	}
	b.mknod(d)
}

// bindDevice attaches the host's device of that name, from descriptor to
// descriptor, to a file that is made for it.
func (b *builder) bindDevice(d specs.LinuxDevice, field string) {
	step := "bind device " + d.Path
	fd := b.addDevice(d.Path, deviceTypes[d.Type], unix.Mkdev(uint32(d.Major), uint32(d.Minor)), field)
	dir, base := b.deviceDir(d, step)
	made := b.here()
	b.call(step, unix.SYS_OPENAT, dir, program.Str(base),
		program.Named(unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, "O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC"),
		program.Named(0o600, "0600")).Answers = []unix.Errno{unix.EEXIST}
	b.miss(made)
	b.setattr(step, program.Int(fd), mountAttr{propagation: unix.MS_PRIVATE}, false)
	b.call(step, unix.SYS_MOVE_MOUNT, program.Int(fd), emptyPath, dir, program.Str(base), fromFd)
}

func (b *builder) addDevice(host string, mode uint32, rdev uint64, field string) int {
	fd := b.addFile(program.FileDevice, host, field)
	file := &b.plan.Files[fd-program.FdFiles]
	file.Mode, file.Rdev = mode, rdev
	return fd
}

// deviceDir leaves the directory of a device somewhere, and returns where.
func (b *builder) deviceDir(d specs.LinuxDevice, step string) (dir program.Arg, base string) {
	clean := path.Clean(d.Path)
	if path.Dir(clean) == "/dev" {
		return program.From(slotDev), path.Base(clean)
	}
	b.parents(clean, clean)
	b.open(step, path.Dir(clean), howPath, slotParent)
	return program.From(slotParent), path.Base(clean)
}

// mknod makes one device. It is made, never found: a file that an image
// has in its place stays what it is, and nothing here writes to it.
func (b *builder) mknod(d specs.LinuxDevice) {
	step := "make device " + d.Path
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	dir, base := b.deviceDir(d, step)
	kind := deviceTypes[d.Type]
	made := b.here()
	b.call(step, unix.SYS_MKNODAT, dir, program.Str(base),
		program.Named(kind|mode, fmt.Sprintf("%s|%#o", kindText(kind), mode)),
		program.Named(unix.Mkdev(uint32(d.Major), uint32(d.Minor)), fmt.Sprintf("makedev(%d, %d)", d.Major, d.Minor))).
		Answers = []unix.Errno{unix.EEXIST}
	if d.UID != nil || d.GID != nil {
		b.call(step, unix.SYS_FCHOWNAT, dir, program.Str(base), id(d.UID), id(d.GID),
			program.Named(unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"))
	}
	b.miss(made)
}

func id(v *uint32) program.Arg {
	if v == nil {
		return program.Int(-1)
	}
	return program.Int(*v)
}

func kindText(kind uint32) string {
	switch kind {
	case unix.S_IFBLK:
		return "S_IFBLK"
	case unix.S_IFIFO:
		return "S_IFIFO"
	default:
		return "S_IFCHR"
	}
}
