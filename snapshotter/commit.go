package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

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
	// One who asks again, while what he asked for is being done, waits for that: his failure would take away the
	// mark of what was committed.
	defer s.committing.lock(key)()
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
	if err = s.removedMeanwhile(ctx, key, id, err); err != nil {
		return fmt.Errorf("snapshot %q: %w", key, err)
	}
	step("commit: settled")
	err = s.write(ctx, func(ctx context.Context, c *change) error {
		got, err := storage.CommitActive(ctx, key, name, usage, opts...)
		if err == nil && got != id {
			err = fmt.Errorf("was removed, and made anew, meanwhile: %w", errdefs.ErrNotFound)
		}
		if err != nil {
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
	if err != nil { // also if the disk is broken: the next start takes back what has no mark
		return errors.Join(err, mark.remove())
	}
	step("commit: committed")
	return nil
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
	if m, err = s.dirs.writeLayer(id, diff); err != nil {
		return usage, m, err
	}
	step("commit: marked")
	m.sync = how != syncNone
	if how == syncEach || how == syncWhole { // the names are not in a journal with all the rest
		m.dirs = []string{s.dirs.snapshot(id), s.dirs.snapshots()}
	}
	return usage, m, nil
}

// A mark says that a snapshot was committed and that all of it was on disk before: ID/layer.
type mark struct {
	file *os.File // nil if there is none of its own
	sync bool     // it has to be on disk
	dirs []string // whose names have to be, too
}

// begin syncs the mark, and gives what to call for the answer.
func (m mark) begin() (wait func() error) {
	if !m.sync && len(m.dirs) == 0 {
		return m.close
	}
	done := make(chan error, 1)
	go func() { done <- m.syncAll() }()
	return func() error { return <-done }
}

func (m mark) syncAll() error {
	if m.sync {
		if err := m.file.Sync(); err != nil {
			return errors.Join(err, m.close())
		}
	}
	for _, path := range m.dirs {
		dir, err := os.Open(path)
		if err != nil {
			return errors.Join(err, m.close())
		}
		if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
			return errors.Join(err, m.close())
		}
	}
	return m.close()
}

func (m mark) close() error {
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}

// remove takes back a mark of what was not committed: of a snapshot that goes on being written to.
func (m mark) remove() error {
	if m.file == nil {
		return nil
	}
	_ = m.close() // may be closed
	if err := os.Remove(m.file.Name()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil // the snapshot was removed
}

// keyLocks are locks, one for each key that somebody has or waits for.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	sync.Mutex
	users int
}

// lock returns what unlocks.
func (k *keyLocks) lock(key string) (unlock func()) {
	k.mu.Lock()
	l := k.held[key]
	if l == nil {
		if k.held == nil {
			k.held = make(map[string]*keyLock)
		}
		l = &keyLock{}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, key)
		}
	}
}
