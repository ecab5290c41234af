package snapshotter

import (
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// A description is all that the mounts of a snapshot depend on.
type description struct {
	kind    snapshots.Kind
	upper   string   // the files of its own
	work    string   // overlay's
	lowers  []string // of its parents, topmost first
	empty   string   // the lower layer of who has none
	extract bool     // without a parent, to be given one at Commit: see overlayExtract
	staged  bool     // its files are there already: nobody may write
	uidmap  string
	gidmap  string
	options []string // of every overlay
}

// describe looks nothing up on the disk: all comes from the record.
func (s *Snapshotter) describe(snapshot storage.Snapshot, info snapshots.Info) description {
	d := description{
		kind:    snapshot.Kind,
		upper:   s.dirs.fs(snapshot.ID),
		work:    s.dirs.work(snapshot.ID),
		empty:   s.dirs.empty(),
		lowers:  make([]string, len(snapshot.ParentIDs)),
		extract: overlayExtract(info),
		staged:  s.shared.real(snapshot.ID) != snapshot.ID,
		uidmap:  info.Labels[snapshots.LabelSnapshotUIDMapping],
		gidmap:  info.Labels[snapshots.LabelSnapshotGIDMapping],
		options: s.overlay,
	}
	for i, id := range snapshot.ParentIDs {
		d.lowers[i] = s.dirs.fs(s.shared.real(id)) // whoever mounts may refuse symlinks
	}
	return d
}

// mounts gives the mounts of a snapshot: one, always. Who copies an image volume takes the first one
// of a view to be the only one (nerdctl, run_mount.go).
func (s *Snapshotter) mounts(d description) []mount.Mount { return []mount.Mount{d.mount()} }

func (d description) mount() mount.Mount {
	view := d.kind == snapshots.KindView
	switch {
	case view && len(d.lowers) == 1:
		return d.bind(d.lowers[0], "ro") // an overlay wants two
	case view && len(d.lowers) == 0 || d.staged:
		return d.bind(d.upper, "ro")
	case view:
		return d.overlay(d.lowers)
	case len(d.lowers) > 0:
		return d.overlay(d.lowers, "workdir="+d.work, "upperdir="+d.upper)
	case d.extract:
		return d.overlay([]string{d.empty}, "workdir="+d.work, "upperdir="+d.upper)
	default:
		return d.bind(d.upper, "rw")
	}
}

// idmap are the options by which containerd's mount and the shims know the user namespace. overlay
// gets its layers mapped, a bind is mapped itself.
func (d description) idmap() (options []string) {
	if d.uidmap != "" {
		options = append(options, "uidmap="+d.uidmap)
	}
	if d.gidmap != "" {
		options = append(options, "gidmap="+d.gidmap)
	}
	return options
}

func (d description) bind(source, mode string) mount.Mount {
	return mount.Mount{Type: "bind", Source: source, Options: append(d.idmap(), mode, "rbind")}
}

func (d description) overlay(lowers []string, upper ...string) mount.Mount {
	options := append(d.idmap(), upper...)
	options = append(options, "lowerdir="+strings.Join(lowers, ":"))
	for _, option := range d.options {
		if option == volatile && (len(upper) == 0 || d.extract) {
			continue // nothing is written, or what is written is to be kept
		}
		options = append(options, option)
	}
	return mount.Mount{Type: "overlay", Source: "overlay", Options: options}
}

const volatile = "volatile"

// overlayExtract tells whether a layer is unpacked without its parents, which it gets at Commit
// ("rebase"). Its files are then written by containerd's applier, which turns whiteouts into
// overlay's only where it is given an overlay mount (containerd#13030): so it must be given one.
//
// The lowest layer of an image has nothing to white out. Unpacked into a bind mount it is the same
// on its own, in a view of one layer, and below others. Its chain id is its diff id.
func overlayExtract(info snapshots.Info) bool {
	if info.Parent != "" || info.Kind != snapshots.KindActive {
		return false
	}
	chain, ok := extractChain(info.Name)
	return ok && chain != info.Labels[snapshots.LabelSnapshotDiffID]
}

// extractChain gives the chain id that a layer is to be committed as, from the key that containerd's
// unpacker prepares it under: NAMESPACE/NUMBER/extract-UNIQUE CHAIN.
func extractChain(key string) (chain string, ok bool) {
	name := clientName(key)
	if !strings.HasPrefix(name, snapshots.UnpackKeyPrefix+"-") {
		return "", false
	}
	_, chain, ok = strings.Cut(name, " ")
	return chain, ok
}

// clientName is the name that containerd's client gave. The metadata service makes it unique by
// NAMESPACE/NUMBER/ before it; neither has a slash.
func clientName(key string) string {
	if parts := strings.SplitN(key, "/", 3); len(parts) == 3 {
		return parts[2]
	}
	return key
}
