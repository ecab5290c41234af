package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// A Snapshotter keeps snapshots below one directory. It implements snapshots.Snapshotter and
// snapshots.Cleaner.
type Snapshotter struct {
	Config
	dirs     dirs
	store    *storage.MetaStore
	log      *slog.Logger
	overlay  []string // options of every overlay mount
	features Features
	quota    *quota // nil where the file system has none
	trash    *trash
	counter  *counter
	metrics  *metrics

	committing keyLocks

	// mu is held while a transaction that writes is open. bolt has one at a time anyway.
	mu     sync.Mutex
	shared *shared

	closing sync.Once
	closed  error
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// Open makes the directory ready, mends what a crash has left, and takes the directory for itself.
func Open(c Config) (_ *Snapshotter, err error) {
	s := &Snapshotter{Config: c, dirs: dirs{c.Root}, log: c.logger()}
	if err := s.dirs.make(); err != nil {
		return nil, err
	}
	if s.store, err = openStore(s.dirs.metadata()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.quota.close()
			_ = s.store.Close()
		}
	}()
	if s.features, err = probe(s.dirs); err != nil {
		return nil, err
	}
	if c.Durable && s.features.sync == syncWhole {
		s.log.Warn("no journal that is known here: each layer waits until the whole file system is on disk", "fs", s.features.FileSystem)
	}
	if s.quota, err = openQuota(c); err != nil {
		return nil, err
	}
	if c.MaxSize < 0 {
		return nil, fmt.Errorf("max_size = %d: not a number of bytes", c.MaxSize)
	}
	if s.features.Quota = s.quota != nil; !s.features.Quota && c.MaxSize > 0 && !c.IgnoreQuota {
		return nil, s.errNoQuota(c.MaxSize)
	}
	configured := c.MountOptions
	if c.Volatile && !slices.Contains(configured, volatile) {
		configured = append(slices.Clone(configured), volatile)
	}
	s.overlay = s.features.overlayOptions(configured)
	if err := s.recover(); err != nil {
		return nil, err
	}
	s.trash, s.counter, s.metrics = newTrash(s.dirs, s.quota, s.log), newCounter(), newMetrics(s)
	return s, nil
}

// storeTimeout is how long to wait for a predecessor that is about to end.
const storeTimeout = 3 * time.Second

// openStore takes the lock on the metadata, so that there is one process at a time.
func openStore(path string) (*storage.MetaStore, error) {
	store, err := storage.NewMetaStore(path, func(o *bolt.Options) error {
		o.Timeout = storeTimeout
		o.FreelistType = bolt.FreelistMapType
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// The store opens its file when it is first used.
	err = store.WithTransaction(context.Background(), false, func(context.Context) error { return nil })
	if err != nil {
		_ = store.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return store, nil
}

// Close ends the background work and gives the directory free. It may be called twice.
func (s *Snapshotter) Close() error {
	s.closing.Do(func() {
		s.trash.close()
		s.counter.close()
		s.closed = errors.Join(s.store.Close(), s.quota.close())
	})
	return s.closed
}

// read runs f in a transaction that does not write.
func (s *Snapshotter) read(ctx context.Context, f func(context.Context) error) error {
	return s.store.WithTransaction(ctx, false, f)
}

// A change is what a transaction does outside of the metadata.
type change struct {
	undo []func() error // last first, if the transaction fails
	wait func() error   // if not nil, for what has to be on disk with it
	done []func()       // after it is on disk
}

// write runs f in a transaction. What f does elsewhere it notes in the change.
func (s *Snapshotter) write(ctx context.Context, f func(context.Context, *change) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c change
	err := s.store.WithTransaction(ctx, true, func(ctx context.Context) error { return f(ctx, &c) })
	if err != nil {
		errs := []error{plain(err)}
		if c.wait != nil {
			_ = c.wait() // for nothing
		}
		for i := len(c.undo) - 1; i >= 0; i-- {
			if err := c.undo[i](); err != nil {
				errs = append(errs, fmt.Errorf("undo: %w", err))
			}
		}
		return errors.Join(errs...)
	}
	if c.wait != nil {
		err = c.wait()
	}
	for _, f := range c.done {
		f()
	}
	return err
}

// plain unwraps what WithTransaction has joined needlessly, so that one error prints as one line.
func plain(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		if errs := joined.Unwrap(); len(errs) == 1 {
			return errs[0]
		}
	}
	return err
}

// Stat gives the record of a snapshot.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		var id string
		if id, info, _, err = storage.GetInfo(ctx, key); err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		s.addUpperdir(id, &info)
		return nil
	})
	return info, plain(err)
}

// Update changes the labels of a snapshot.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	err = s.write(ctx, func(ctx context.Context, _ *change) error {
		if updated, err = storage.UpdateInfo(ctx, info, fieldpaths...); err != nil {
			return fmt.Errorf("snapshot %q: %w", info.Name, err)
		}
		if s.UpperdirLabel {
			id, _, _, err := storage.GetInfo(ctx, info.Name)
			if err != nil {
				return err
			}
			s.addUpperdir(id, &updated)
		}
		return nil
	})
	return updated, err
}

// Walk calls fn for each snapshot that matches one of the filters, or for all if there is none.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	if s.UpperdirLabel {
		inner := fn
		fn = func(ctx context.Context, info snapshots.Info) error {
			id, _, _, err := storage.GetInfo(ctx, info.Name)
			if err != nil {
				return err
			}
			s.addUpperdir(id, &info)
			return inner(ctx, info)
		}
	}
	err := s.read(ctx, func(ctx context.Context) error {
		if _, err := storage.IDMap(ctx); errdefs.IsNotFound(err) {
			return nil // the store without any record yet
		}
		return storage.WalkInfo(ctx, fn, filters...)
	})
	return plain(err)
}

// Mounts gives the mounts of an active snapshot or a view.
func (s *Snapshotter) Mounts(ctx context.Context, key string) (mounts []mount.Mount, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		snapshot, err := storage.GetSnapshot(ctx, key)
		if err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		_, info, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		d := s.describe(snapshot, info)
		mounts = s.mounts(d)
		return s.forgive(d)
	})
	if err != nil {
		return nil, plain(err)
	}
	return mounts, nil
}

// forgive takes away the mark of a volatile mount, which no overlay is mounted over again, so that
// what may have been lost when the machine went down is not taken for whole (overlayfs.rst, "Volatile
// mount"). Who asked for volatile uppers takes that risk, and wants to stop and start containers.
func (s *Snapshotter) forgive(d description) error {
	if d.kind != snapshots.KindActive || !slices.Contains(d.options, volatile) {
		return nil
	}
	if err := os.RemoveAll(d.work + "/work/incompat/volatile"); err != nil {
		return fmt.Errorf("volatile mark: %w", err)
	}
	return nil
}

// Features tells what this kernel can do with the file system of the directory.
func (s *Snapshotter) Features() Features { return s.features }

// Cleanup is what containerd calls after it has collected garbage. All that it removed is in the
// trash already, which is emptied in the background.
func (s *Snapshotter) Cleanup(context.Context) error {
	s.trash.wake()
	return nil
}

const upperdirLabel = "containerd.io/snapshot/overlay.upperdir"

// addUpperdir adds the label that tells tools of the host where a snapshot's own files are.
func (s *Snapshotter) addUpperdir(id string, info *snapshots.Info) {
	if !s.UpperdirLabel {
		return
	}
	if info.Labels == nil {
		info.Labels = make(map[string]string)
	}
	info.Labels[upperdirLabel] = s.dirs.fs(id)
}

// exists tells whether path is there, a symlink as itself.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
