package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// Prepare makes a snapshot that can be written to.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// View makes a snapshot that can only be read.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (mounts []mount.Mount, err error) {
	want, err := s.request(kind, key, parent, opts)
	if err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", key, err)
	}
	var temporary string
	if want.hasDir() {
		if temporary, err = s.dirs.temporary(kind == snapshots.KindActive); err != nil {
			return nil, fmt.Errorf("snapshot %q: %w", key, err)
		}
	}
	step("create: directory made")
	err = s.write(ctx, func(ctx context.Context, c *change) error {
		snapshot, err := storage.CreateSnapshot(ctx, kind, key, parent, opts...)
		if err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		d := s.describe(snapshot, want.info)
		switch owner, found := s.stored(want); {
		case temporary == "":
		case found:
			d.staged = true
			err = s.link(c, snapshot.ID, owner, temporary)
		default:
			err = s.place(c, want, snapshot, temporary)
		}
		if err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		mounts = s.mounts(d)
		return nil
	})
	if err != nil {
		if temporary != "" && exists(temporary) {
			err = errors.Join(err, os.RemoveAll(temporary))
		}
		return nil, err
	}
	step("create: committed")
	return mounts, nil
}

// A request is what is to be created.
type request struct {
	info  snapshots.Info
	ids   *idmap // nil if the container has no user namespace
	limit int64  // of what may be written, 0 for none
}

func (s *Snapshotter) request(kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (r request, err error) {
	for _, opt := range opts {
		if err := opt(&r.info); err != nil {
			return r, err
		}
	}
	r.info.Kind, r.info.Name, r.info.Parent = kind, key, parent
	if r.limit, err = s.limit(r.info); err != nil {
		return r, err
	}
	if r.limit > 0 && s.quota == nil && !s.IgnoreQuota {
		return r, s.errNoQuota(r.limit)
	}
	r.ids, err = readIDMap(r.info.Labels)
	return r, err
}

// hasDir is false for a view of a parent: it has no files of its own.
func (r request) hasDir() bool { return r.info.Kind == snapshots.KindActive || r.info.Parent == "" }

// stored finds the snapshot that has the files of the layer that is to be unpacked.
func (s *Snapshotter) stored(want request) (owner string, found bool) {
	if want.ids != nil || !overlayExtract(want.info) {
		return "", false
	}
	return s.shared.find(s.dirs, want.info.Labels[snapshots.LabelSnapshotDiffID])
}

// link makes the snapshot have the files of its owner. The directory that was made for it is not needed.
func (s *Snapshotter) link(c *change, id, owner, temporary string) error {
	path := s.dirs.snapshot(id)
	if err := os.Symlink(owner, path); err != nil {
		return err
	}
	step("create: linked")
	c.undo = append(c.undo, func() error { return os.Remove(path) })
	c.done = append(c.done, func() {
		s.shared.join(id, owner)
		_ = os.RemoveAll(temporary) // the next start does it otherwise
	})
	return nil
}

// place gives the directory the owner of its root, and its name.
func (s *Snapshotter) place(c *change, want request, snapshot storage.Snapshot, temporary string) error {
	if err := s.own(temporary+"/fs", want, snapshot.ParentIDs); err != nil {
		return err
	}
	step("create: owned")
	if want.info.Kind == snapshots.KindActive {
		if err := s.quota.hold(snapshot.ID, temporary, want.limit); err != nil {
			return err
		}
		c.undo = append(c.undo, func() error { return s.quota.free(snapshot.ID) })
		step("create: held")
	}
	if err := os.Rename(temporary, s.dirs.snapshot(snapshot.ID)); err != nil {
		return err
	}
	c.undo = append(c.undo, func() error { return os.Rename(s.dirs.snapshot(snapshot.ID), temporary) })
	step("create: renamed")
	return nil
}

// own makes the root directory of a container belong to whom it belongs to in the image: overlay
// shows that of the upper layer. In a user namespace it is root's of that.
func (s *Snapshotter) own(fs string, want request, parents []string) error {
	var uid, gid int
	switch {
	case want.ids != nil:
		uid, gid = want.ids.uid, want.ids.gid
	case len(parents) > 0:
		var parent syscall.Stat_t
		if err := syscall.Stat(s.dirs.fs(parents[0]), &parent); err != nil {
			return fmt.Errorf("parent %s: stat: %w", s.dirs.fs(parents[0]), err)
		}
		uid, gid = int(parent.Uid), int(parent.Gid)
	}
	if uid == os.Geteuid() && gid == os.Getegid() {
		return nil // it was made so
	}
	return os.Lchown(fs, uid, gid)
}
