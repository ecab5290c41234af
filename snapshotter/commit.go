package snapshotter

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// Commit makes an active snapshot a layer for others. What takes long is done before the transaction,
// which all other writers wait for.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	var base snapshots.Info
	for _, opt := range opts {
		if err := opt(&base); err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
	}
	id, info, err := s.committable(ctx, name, key)
	if err != nil {
		return err
	}
	parent := info.Parent
	if parent == "" {
		parent = base.Parent
	}
	diff, proven := diffID(name, parent, base.Labels)
	if proven = proven && overlayExtract(info); !proven {
		diff = ""
	}
	usage, err := s.settle(ctx, id, diff)
	if err != nil {
		return fmt.Errorf("snapshot %q: %w", key, err)
	}
	step("commit: settled")
	err = s.write(ctx, func(ctx context.Context, c *change) error {
		if _, err := storage.CommitActive(ctx, key, name, usage, opts...); err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		c.done = append(c.done, func() { s.counter.forget(id) })
		if proven {
			c.done = append(c.done, func() { s.shared.offer(diff, id) })
		}
		step("commit: recorded")
		return nil
	})
	step("commit: committed")
	return err
}

// committable finds the snapshot, and refuses early what the transaction would refuse late.
func (s *Snapshotter) committable(ctx context.Context, name, key string) (id string, info snapshots.Info, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		if id, info, _, err = storage.GetInfo(ctx, key); err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		if info.Kind != snapshots.KindActive {
			return fmt.Errorf("snapshot %q: not active: %w", key, errdefs.ErrFailedPrecondition)
		}
		if _, _, _, err := storage.GetInfo(ctx, name); err == nil {
			return fmt.Errorf("snapshot %q: %w", name, errdefs.ErrAlreadyExists)
		}
		return nil
	})
	return id, info, plain(err)
}

// settle counts the files of a snapshot and brings them to the disk.
func (s *Snapshotter) settle(ctx context.Context, id, diff string) (snapshots.Usage, error) {
	if owner := s.shared.real(id); owner != id { // committed once already
		return s.count(ctx, owner)
	}
	how := s.features.sync
	if !s.Durable {
		how = syncNone
	}
	t := tree{root: s.dirs.fs(id), sync: how}
	usage, err := t.walk(ctx)
	if err != nil {
		return usage, err
	}
	step("commit: written back")
	mark, err := s.dirs.writeLayer(id, diff)
	if err != nil {
		return usage, err
	}
	defer mark.Close()
	step("commit: marked")
	if how == syncNone {
		return usage, nil
	}
	if err := mark.Sync(); err != nil {
		return usage, err
	}
	if how == syncEach { // the names are not in a journal with all the rest
		return usage, syncDirs(s.dirs.snapshot(id), s.dirs.snapshots())
	}
	return usage, nil
}

// syncDirs makes names durable.
func syncDirs(paths ...string) error {
	for _, path := range paths {
		dir, err := os.Open(path)
		if err != nil {
			return err
		}
		err = dir.Sync()
		dir.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
