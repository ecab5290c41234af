package compile

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// attrOption is what a mount option does to struct mount_attr.
type attrOption struct {
	set, clr uint64
}

// attrOptions are the mount options that belong to the mount, not to the file
// system: mount(8), FILESYSTEM-INDEPENDENT MOUNT OPTIONS. Each also exists with
// an "r" in front, for the whole tree: runtime-spec config.md#linux-mount-options.
var attrOptions = map[string]attrOption{
	"ro":            {set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {clr: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {clr: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {set: unix.MOUNT_ATTR_NODEV},
	"dev":           {clr: unix.MOUNT_ATTR_NODEV},
	"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {clr: unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {clr: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {clr: unix.MOUNT_ATTR_NODIRATIME},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clr: unix.MOUNT_ATTR__ATIME},
	"atime":         {clr: unix.MOUNT_ATTR_NOATIME},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clr: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {clr: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clr: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {clr: unix.MOUNT_ATTR__ATIME},
}

type propagation struct {
	flag      uint64
	recursive bool
}

// propagations: mount_namespaces(7), SHARED SUBTREES.
var propagations = map[string]propagation{
	"private":     {unix.MS_PRIVATE, false},
	"rprivate":    {unix.MS_PRIVATE, true},
	"slave":       {unix.MS_SLAVE, false},
	"rslave":      {unix.MS_SLAVE, true},
	"shared":      {unix.MS_SHARED, false},
	"rshared":     {unix.MS_SHARED, true},
	"unbindable":  {unix.MS_UNBINDABLE, false},
	"runbindable": {unix.MS_UNBINDABLE, true},
}

// MountOptions are the options that mini understands in mounts[].options, for
// the features that it announces.
func MountOptions() []string {
	all := slices.Concat([]string{"bind", "rbind", "idmap", "ridmap", "tmpcopyup"}, superOptions, voidOptions)
	for o := range attrOptions {
		all = append(all, o, "r"+o)
	}
	for o := range propagations {
		all = append(all, o)
	}
	slices.Sort(all)
	return all
}

// superOptions belong to a file system, whichever it is: fsconfig(2) takes them by
// name. A bind mount has none.
var superOptions = []string{"async", "dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync"}

// voidOptions say what is so anyway: a mount that fails says why.
var voidOptions = []string{"defaults", "loud", "silent"}

// mountOptions is mounts[].options, sorted into what they mean.
type mountOptions struct {
	bind, recursive bool
	attr, rattr     attrOption
	propagation     propagation
	data            []string // the file system's own
	idmap, idmapAll bool
	copyUp          bool
	ids             *program.IDMaps // what it is mapped to
}

func parseOptions(field string, options []string) (mountOptions, error) {
	var o mountOptions
	for _, opt := range options {
		if a, ok := attrOptions[opt]; ok {
			o.attr.apply(a)
			continue
		}
		if a, ok := attrOptions[strings.TrimPrefix(opt, "r")]; ok && opt != "" && opt[0] == 'r' {
			o.rattr.apply(a)
			continue
		}
		if p, ok := propagations[opt]; ok {
			o.propagation = p
			continue
		}
		if slices.Contains(voidOptions, opt) {
			continue
		}
		switch opt {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "idmap":
			o.idmap = true
		case "ridmap":
			o.idmap, o.idmapAll = true, true
		case "tmpcopyup":
			o.copyUp = true
		case "remount":
			return o, unsupported(field + ": " + opt)
		case "":
			return o, invalid(field, "empty option")
		default:
			o.data = append(o.data, opt)
		}
	}
	return o, nil
}

// apply adds a later option, which wins over an earlier one.
func (o *attrOption) apply(a attrOption) {
	o.set = o.set&^a.clr | a.set
	o.clr = o.clr&^(a.set&^unix.MOUNT_ATTR__ATIME) | a.clr
	if o.clr&unix.MOUNT_ATTR__ATIME != 0 {
		// They are one value and not flags: all or none, mount_setattr(2).
		o.clr |= unix.MOUNT_ATTR__ATIME
	}
}

func attrText(v uint64) string {
	return flagText(v, []flagName{
		{unix.MOUNT_ATTR__ATIME, "ATIME"},
		{unix.MOUNT_ATTR_RDONLY, "RDONLY"},
		{unix.MOUNT_ATTR_NOSUID, "NOSUID"},
		{unix.MOUNT_ATTR_NODEV, "NODEV"},
		{unix.MOUNT_ATTR_NOEXEC, "NOEXEC"},
		{unix.MOUNT_ATTR_NOATIME, "NOATIME"},
		{unix.MOUNT_ATTR_STRICTATIME, "STRICTATIME"},
		{unix.MOUNT_ATTR_NODIRATIME, "NODIRATIME"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, "NOSYMFOLLOW"},
	})
}

func propagationText(v uint64) string {
	return flagText(v, []flagName{
		{unix.MS_PRIVATE, "MS_PRIVATE"}, {unix.MS_SLAVE, "MS_SLAVE"},
		{unix.MS_SHARED, "MS_SHARED"}, {unix.MS_UNBINDABLE, "MS_UNBINDABLE"},
	})
}

type flagName struct {
	flag uint64
	name string
}

func flagText(v uint64, names []flagName) string {
	var on []string
	for _, n := range names {
		if v&n.flag == n.flag {
			on = append(on, n.name)
			v &^= n.flag
		}
	}
	if len(on) == 0 {
		return "0"
	}
	return strings.Join(on, "|")
}
