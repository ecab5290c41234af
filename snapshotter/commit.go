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
	usage, mark, err := s.settle(ctx, id, diff)
	if err != nil {
		return fmt.Errorf("snapshot %q: %w", key, err)
	}
	step("commit: settled")
	err = s.write(ctx, func(ctx context.Context, c *change) error {
		c.undo = append(c.undo, mark.remove)
		if _, err := storage.CommitActive(ctx, key, name, usage, opts...); err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		// Both have to be on disk, in whichever order they come there: see recover.go. So the disk
		// does both at a time.
		c.wait = mark.begin()
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

// settle counts the files of a snapshot, brings them to the disk, and marks them.
func (s *Snapshotter) settle(ctx context.Context, id, diff string) (usage snapshots.Usage, m mark, err error) {
	how := s.features.sync
	if !s.Durable {
		how = syncNone
	}
	if owner := s.shared.real(id); owner != id { // committed once already; the link is what is new
		usage, err = s.count(ctx, owner)
		if how != syncNone {
			m.dirs = []string{s.dirs.snapshots()}
		}
		return usage, m, err
	}
	t := tree{root: s.dirs.fs(id), sync: how}
	if usage, err = t.walk(ctx); err != nil {
		return usage, m, err
	}
	step("commit: written back")
	if m.path, err = s.dirs.writeLayer(id, diff); err != nil {
		return usage, m, err
	}
	step("commit: marked")
	if how != syncNone {
		m.file = m.path
	}
	if how == syncEach { // the names are not in a journal with all the rest
		m.dirs = []string{s.dirs.snapshot(id), s.dirs.snapshots()}
	}
	return usage, m, nil
}

// A mark says that a snapshot was committed and that all of it was on disk before: ID/layer.
type mark struct {
	path string   // "" if there is none of its own
	file string   // to sync, "" for no
	dirs []string // whose names to sync
}

// begin syncs the mark, and gives what to call for the answer.
func (m mark) begin() (wait func() error) {
	if m.file == "" && len(m.dirs) == 0 {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- m.sync() }()
	return func() error { return <-done }
}

func (m mark) sync() error {
	if m.file != "" {
		if err := syncPath(m.file); err != nil {
			return err
		}
	}
	for _, dir := range m.dirs {
		if err := syncPath(dir); err != nil {
			return err
		}
	}
	return nil
}

// remove takes back a mark of what was not committed: of a snapshot that goes on being written to.
func (m mark) remove() error {
	if m.path == "" {
		return nil
	}
	return os.Remove(m.path)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
