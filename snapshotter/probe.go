package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/continuity/fs"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// Features are what this kernel can do with this file system. They are tried, not looked up.
type Features struct {
	FileSystem string // what statfs(2) calls it
	UserNS     bool   // the snapshotter is in a user namespace
	RemapIDs   bool   // overlay takes layers from idmapped mounts, Linux 5.19
	LayerByFD  bool   // fsconfig(2) takes a layer at a time, Linux 6.8
	Quota      bool   // it holds projects to their limits

	options []string // that every overlay mount is to have
	sync    syncMode
}

// Capabilities are the words for proxy_plugins.mini.capabilities: containerd believes its own
// configuration and asks nobody.
func (f Features) Capabilities() []string {
	var all []string
	if f.RemapIDs {
		all = append(all, "remap-ids")
	}
	// In a user namespace the applier mounts and writes through the mount, which knows
	// no whiteouts without a lower layer (containerd#13388).
	if !f.UserNS {
		all = append(all, "rebase")
	}
	return all
}

// fileSystems have names where the magic number of statfs(2) is known.
var fileSystems = map[int64]struct {
	name string
	sync syncMode
}{
	unix.EXT4_SUPER_MAGIC:      {"ext4", syncJournal},
	unix.XFS_SUPER_MAGIC:       {"xfs", syncJournal},
	unix.BTRFS_SUPER_MAGIC:     {"btrfs", syncEach},
	unix.TMPFS_MAGIC:           {"tmpfs", syncNone}, // there is no disk
	unix.OVERLAYFS_SUPER_MAGIC: {"overlay", syncWhole},
}

// detect finds what does not depend on the file system.
func detect() (f Features) {
	f.UserNS = userns.RunningInUserNS()
	f.RemapIDs = !f.UserNS && atLeast(5, 19)
	f.LayerByFD = atLeast(6, 8)
	return f
}

func probe(d dirs) (f Features, err error) {
	f = detect()
	if f.FileSystem, f.sync, err = fileSystem(d.root); err != nil {
		return f, err
	}

	// Without it overlay cannot tell a whiteout in a directory listing.
	if ok, err := fs.SupportsDType(d.root); err != nil {
		return f, fmt.Errorf("%s: d_type: %w", d.root, err)
	} else if !ok {
		return f, fmt.Errorf("%s: %s gives no d_type; xfs must be made with ftype=1", d.root, f.FileSystem)
	}
	loadOverlay()
	f.options = chooseOptions(f.UserNS && f.FileSystem != "tmpfs", overlayParameter)
	return f, f.try(d)
}

// fileSystem is what a directory is on, and how its files are made durable.
func fileSystem(dir string) (name string, mode syncMode, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", syncNone, fmt.Errorf("%s: statfs: %w", dir, err)
	}
	known, ok := fileSystems[st.Type]
	if !ok {
		known.name, known.sync = fmt.Sprintf("%#x", st.Type), syncWhole
	}
	if st.Type == unix.EXT4_SUPER_MAGIC {
		var root unix.Stat_t
		if err := unix.Stat(dir, &root); err != nil {
			return "", syncNone, fmt.Errorf("%s: stat: %w", dir, err)
		}
		if !journaled(root.Dev) {
			known.sync = syncWhole
		}
	}
	return known.name, known.sync, nil
}

// journaled tells whether an ext4 has a journal: it may be made without one, and ext2 has none. If sysfs does
// not say it has none.
func journaled(dev uint64) bool {
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(dev), unix.Minor(dev)))
	if err != nil {
		return false
	}
	// Its thread's number, or "<none>": Documentation/ABI/testing/sysfs-fs-ext4.
	task, err := os.ReadFile("/sys/fs/ext4/" + filepath.Base(device) + "/journal_task")
	if err != nil {
		return false
	}
	_, err = strconv.Atoi(strings.TrimSpace(string(task)))
	return err == nil
}

// loadOverlay has the kernel load the module, whose parameters are asked for next.
func loadOverlay() {
	if fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC); err == nil {
		unix.Close(fd)
	}
}

// overlayParameter reads a default of the overlay module, "" if it has no such option.
func overlayParameter(name string) string {
	text, err := os.ReadFile("/sys/module/overlay/parameters/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// chooseOptions decides what every overlay mount gets.
func chooseOptions(userxattr bool, parameter func(string) string) (options []string) {
	// The index ties an upper directory to one set of layers. A snapshot's may be mounted twice,
	// for a diff of a running container, and may be copied with the disk.
	if parameter("index") != "" {
		options = append(options, "index=off")
	}
	// tmpfs has no user.* attributes for a user namespace, tmpfs(5).
	if userxattr {
		return append(options, "userxattr") // implies the rest, overlayfs.rst "User xattr"
	}
	// With these a file's data, or a directory's entries, would be in another layer than the
	// file: not in the layer's diff, nor there for who mounts without.
	if parameter("metacopy") == "Y" {
		options = append(options, "metacopy=off")
	}
	if parameter("redirect_dir") == "Y" {
		options = append(options, "redirect_dir=off")
	}
	return options
}

// overlayOptions are what mounts get, the configured ones first. An option that is configured is not
// chosen again: of two the kernel takes the last.
func (f Features) overlayOptions(configured []string) []string {
	all := append([]string(nil), configured...)
	for _, option := range f.options {
		name, _, _ := strings.Cut(option, "=")
		said := false
		for _, c := range configured {
			known, _, _ := strings.Cut(c, "=")
			said = said || known == name
		}
		if !said {
			all = append(all, option)
		}
	}
	return all
}

// try makes an overlay, detached, so that nobody sees it.
func (f Features) try(d dirs) error {
	dir, err := d.temporary(true)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = f.tryOverlay(dir, d.empty())
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("overlay: this kernel has no overlayfs: %w", err)
	}
	if err != nil {
		return fmt.Errorf("overlay on %s (%s): %w", d.root, f.FileSystem, err)
	}
	return nil
}

func (f Features) tryOverlay(dir, empty string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fd)
	options := append([]string{}, f.options...)
	for option, path := range map[string]string{"lowerdir": empty, "upperdir": dir + "/fs", "workdir": dir + "/work"} {
		layer, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: open: %w", path, err)
		}
		defer unix.Close(layer)
		// A value of fsconfig(2) ends at 256 bytes, paths need not.
		options = append(options, fmt.Sprintf("%s=/proc/self/fd/%d", option, layer))
	}
	for _, option := range options {
		name, value, has := strings.Cut(option, "=")
		if has {
			err = unix.FsconfigSetString(fd, name, value)
		} else {
			err = unix.FsconfigSetFlag(fd, name)
		}
		if err != nil {
			return fmt.Errorf("fsconfig %s: %w", option, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return fmt.Errorf("create with %s: %w", strings.Join(f.options, ","), err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	return unix.Close(mount)
}

// atLeast compares the kernel's release. What it is asked for cannot be tried without a user
// namespace to map to.
func atLeast(major, minor int) bool {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return false
	}
	var a, b int
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}
