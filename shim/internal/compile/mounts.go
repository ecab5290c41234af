package compile

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// CgroupMount is where the host's cgroup2 hierarchy is: cgroups(7).
const CgroupMount = "/sys/fs/cgroup"

func (b *builder) mounts() error {
	for i := range b.spec.Mounts {
		if err := b.mount(i, &b.spec.Mounts[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) mount(i int, m *specs.Mount) error {
	field := fmt.Sprintf("mounts[%d]", i)
	if m.Destination == "" {
		return invalid(field+".destination", "missing")
	}
	opts, err := parseOptions(field+".options", m.Options)
	if err != nil {
		return err
	}
	if err := b.idmap(field, m, &opts); err != nil {
		return err
	}
	if opts.copyUp && (opts.bind || m.Type != "tmpfs") {
		return invalid(field+".options", "tmpcopyup: only a tmpfs is copied to")
	}
	switch {
	case opts.bind || m.Type == "bind":
		return b.bind(field, m, opts)
	case b.sysfsIsBind(m):
		b.attachFile(fmt.Sprintf("bind /sys on %s", m.Destination), m.Destination,
			b.addFile(program.FileRecursiveBind, "/sys", field+".type"), opts)
		return nil
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return b.cgroupMount(field, m, opts)
	case m.Type == "":
		return invalid(field+".type", "missing")
	case opts.copyUp:
		return b.copiedTmpfs(i, m, opts)
	}
	b.fsMount(i, m, m.Type, opts)
	return nil
}

// idmap reads how the ids of a mount are mapped: runtime-spec
// config.md#posix-platform-mounts.
func (b *builder) idmap(field string, m *specs.Mount, opts *mountOptions) error {
	given := len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0
	switch {
	case !given && !opts.idmap:
		return nil
	case !opts.bind && m.Type != "bind":
		return unsupported(field + ".uidMappings: an id-mapped mount that is not a bind mount")
	case !given && b.idmaps == nil:
		return invalid(field+".options", "idmap: neither the mount nor the container has mappings")
	case !given:
		opts.ids = b.idmaps
		return nil
	}
	ids, err := parseMaps(field, m.UIDMappings, m.GIDMappings)
	opts.ids = ids
	return err
}

// fsMount makes a new instance of a file system: fsopen(2), fsmount(2).
func (b *builder) fsMount(i int, m *specs.Mount, fstype string, opts mountOptions) {
	step := fmt.Sprintf("mount %s on %s", m.Type, m.Destination)
	mounted, made := b.early[i]
	if !made {
		mounted = slotMount
		b.fsopen(step, fstype, m.Source, opts.data, opts.attr.set, mounted)
	}
	b.label(fstype, mounted)
	b.finish(step, program.From(mounted), opts, false)
	// What a process is told by /proc and /sys must be what the kernel
	// says, where it says it: CVE-2019-16884, CVE-2019-19921.
	at := mountPoint{dest: m.Destination, how: howPath, links: true, file: -1}
	if fstype == "proc" || fstype == "sysfs" {
		at.how, at.links = howPlain, false
	}
	if fstype == "tmpfs" && !hasMode(opts.data) {
		at.found = func() { b.likeBelow(step, mounted) }
	}
	b.target(at)
	b.attach(step, program.From(mounted))
}

func hasMode(data []string) bool {
	return slices.ContainsFunc(data, func(o string) bool { return strings.HasPrefix(o, "mode=") })
}

// fsopen leaves a detached mount of a new superblock in out.
func (b *builder) fsopen(step, fstype, source string, data []string, attr uint64, out program.Slot) {
	b.call(step, unix.SYS_FSOPEN, program.Str(fstype), program.Named(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).Out = slotFS
	if source != "" {
		b.fsconfig(step, "source", source)
	}
	for _, opt := range data {
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			b.call(step+": "+opt, unix.SYS_FSCONFIG, program.From(slotFS),
				program.Named(unix.FSCONFIG_SET_FLAG, "FSCONFIG_SET_FLAG"), program.Str(key), null, program.Int(0))
			continue
		}
		b.fsconfig(step+": "+opt, key, OptionValue(key, value))
	}
	if l := b.mountContext(fstype, data); l != "" {
		b.fsconfig("linux.mountLabel: "+l+" for "+fstype, "context", l)
	}
	b.call(step, unix.SYS_FSCONFIG, program.From(slotFS),
		program.Named(unix.FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE"), null, null, program.Int(0))
	b.call(step, unix.SYS_FSMOUNT, program.From(slotFS), program.Named(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"),
		program.Named(attr, attrText(attr))).Out = out
	b.call(step, unix.SYS_CLOSE, program.From(slotFS))
}

func (b *builder) fsconfig(step, key, value string) {
	b.call(step, unix.SYS_FSCONFIG, program.From(slotFS),
		program.Named(unix.FSCONFIG_SET_STRING, "FSCONFIG_SET_STRING"), program.Str(key), program.Str(value), program.Int(0))
}

// finish gives a detached mount its attributes and its propagation.
func (b *builder) finish(step string, fd program.Arg, opts mountOptions, bind bool) {
	if bind && (opts.attr.set|opts.attr.clr) != 0 {
		b.setattr(step, fd, mountAttr{set: opts.attr.set, clr: opts.attr.clr}, false)
	}
	if opts.rattr.set|opts.rattr.clr != 0 {
		b.setattr(step, fd, mountAttr{set: opts.rattr.set, clr: opts.rattr.clr}, true)
	}
	if opts.propagation.flag != 0 {
		b.setattr(step, fd, mountAttr{propagation: opts.propagation.flag}, opts.propagation.recursive)
	}
}

// bind attaches a clone of a tree of the host. The shim made it, by
// open_tree(2), outside of the container: no path of the host is looked up
// from within.
func (b *builder) bind(field string, m *specs.Mount, opts mountOptions) error {
	if len(opts.data) > 0 {
		return invalid(field+".options", "%q: not an option of a bind mount", opts.data[0])
	}
	if m.Source == "" {
		return invalid(field+".source", "missing")
	}
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(b.opt.Bundle, source)
	}
	kind := program.FileBind
	if opts.recursive {
		kind = program.FileRecursiveBind
	}
	fd := b.addFile(kind, source, field+".source")
	file := &b.plan.Files[fd-program.FdFiles]
	file.IDs, file.MapAll = opts.ids, opts.idmapAll
	b.attachFile(fmt.Sprintf("bind %s on %s", m.Source, m.Destination), m.Destination, fd, opts)
	return nil
}

// attachFile attaches a detached tree that the shim handed over.
func (b *builder) attachFile(step, dest string, file int, opts mountOptions) {
	fd := program.Int(file)
	// A clone of a shared mount is its peer. Unless the spec wants mounts
	// to travel to the host, they must not: runc does the same by making
	// its whole tree a slave.
	if opts.propagation.flag != unix.MS_SHARED {
		b.setattr(step, fd, mountAttr{propagation: unix.MS_SLAVE}, true)
	}
	b.finish(step, fd, opts, true)
	b.target(mountPoint{dest: dest, how: howPath, links: true, file: file - program.FdFiles})
	b.attach(step, fd)
}

// cgroupMount shows the container its own part of the cgroup hierarchy: in a
// cgroup namespace that is the root of a mount, otherwise a bind.
func (b *builder) cgroupMount(field string, m *specs.Mount, opts mountOptions) error {
	// The superblock's options are those of the host: cgroup2 does not take
	// them from another namespace, nor from a spec.
	if len(opts.data) > 0 {
		return invalid(field+".options", "%q: the host's cgroup hierarchy has its own", opts.data[0])
	}
	if b.hasNamespace(specs.CgroupNamespace) {
		b.ownCgroup(opts)
		b.fsMount(-1, m, "cgroup2", opts)
		return nil
	}
	if b.opt.Cgroup == "" {
		return unsupported(field + ": a cgroup mount without a cgroup")
	}
	source := filepath.Join(CgroupMount, b.opt.Cgroup)
	b.attachFile(fmt.Sprintf("mount %s on %s", m.Type, m.Destination), m.Destination,
		b.addFile(program.FileBind, source, field+".source"), opts)
	return nil
}
