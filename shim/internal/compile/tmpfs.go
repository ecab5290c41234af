package compile

import (
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// likeBelow gives a tmpfs the mode of the directory that it will cover, as runc
// does: who mounts one on the image's /tmp wants what the image had.
func (b *builder) likeBelow(step string, mounted program.Slot) {
	// struct statx: stx_mode is the 16 bits at 28. fchmodat(2) looks at no more.
	stat := &program.Buffer{Size: 256}
	b.call(step, unix.SYS_STATX, program.From(slotDest), emptyPath, atEmpty,
		program.Named(unix.STATX_MODE, "STATX_MODE"), stat.Addr("&stat"))
	b.call(step, unix.SYS_FCHMODAT, program.From(mounted), program.Str("."), stat.Load(28, "stat.stx_mode"))
}

// copiedTmpfs attaches a tmpfs that has a copy of what it covers. The shim fills
// it, from the root as it is: what the spec mounted there before would not be seen.
func (b *builder) copiedTmpfs(i int, m *specs.Mount, opts mountOptions) error {
	dest := path.Clean("/" + m.Destination)
	for j, earlier := range b.spec.Mounts[:i] {
		if e := path.Clean("/" + earlier.Destination); e == dest || strings.HasPrefix(dest, strings.TrimSuffix(e, "/")+"/") {
			return unsupported(fmt.Sprintf("mounts[%d].options: tmpcopyup below mounts[%d]", i, j))
		}
	}
	if l := b.mountContext("tmpfs", opts.data); l != "" {
		opts.data = append(opts.data, "context="+l)
	}
	fd := b.addFile(program.FileCopiedTmpfs, dest, fmt.Sprintf("mounts[%d]", i))
	file := &b.plan.Files[fd-program.FdFiles]
	file.Options, file.Attr = opts.data, opts.attr.set
	opts.attr = attrOption{}
	b.attachFile(fmt.Sprintf("mount tmpfs on %s", m.Destination), m.Destination, fd, opts)
	return nil
}

// ownCgroup gives a user namespace the cgroup that it may write to: runtime-spec
// config-linux.md#cgroup-ownership.
func (b *builder) ownCgroup(opts mountOptions) {
	ro := (opts.attr.set | opts.rattr.set) & unix.MOUNT_ATTR_RDONLY
	if b.idmaps == nil || ro != 0 || !b.newNamespace(specs.CgroupNamespace) {
		return
	}
	if uid, ok := program.Outside(b.idmaps.UIDs, b.proc.User.UID); ok {
		b.plan.CgroupOwner = &uid
	}
}
