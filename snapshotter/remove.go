package snapshotter

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// Remove forgets a snapshot. Its files go to the trash, which is emptied in the background.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	err := s.write(ctx, func(ctx context.Context, c *change) error {
		id, _, err := storage.Remove(ctx, key)
		if err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		step("remove: recorded")
		free, forget := s.shared.leave(id)
		for _, id := range free {
			if err := s.throw(c, id); err != nil {
				return fmt.Errorf("snapshot %q: %w", key, err)
			}
		}
		c.done = append(c.done, forget, s.trash.wake, func() { s.counter.forget(id) })
		return nil
	})
	step("remove: committed")
	return err
}

// throw renames the directory of a snapshot into the trash, if it has one.
func (s *Snapshotter) throw(c *change, id string) error {
	if !exists(s.dirs.snapshot(id)) {
		return nil // a view of a parent
	}
	// Not a file may be deleted before the transaction is on disk: it may fail, or never come there.
	name := s.dirs.unused(id)
	to := s.dirs.trash() + "/" + name
	s.trash.hold(name)
	if err := os.Rename(s.dirs.snapshot(id), to); err != nil {
		s.trash.release(name)
		return err
	}
	c.undo = append(c.undo, func() error {
		defer s.trash.release(name)
		return os.Rename(to, s.dirs.snapshot(id))
	})
	c.done = append(c.done, func() { s.trash.release(name) })
	step("remove: renamed")
	return nil
}
