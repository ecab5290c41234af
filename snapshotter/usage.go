package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// Usage tells what a snapshot takes, without its parents. That of a committed snapshot was counted
// by Commit. That of an active one is counted now, in the background: kubelet asks for that of every
// container every ten seconds (containerd#13967), and one with a million files must not hold up the
// others. Who asks is given the last count if there is none within patience; and a tree is counted for
// a tenth of the time at most, however often it is asked for.
func (s *Snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	var id string
	var info snapshots.Info
	err = s.read(ctx, func(ctx context.Context) error {
		if id, info, usage, err = storage.GetInfo(ctx, key); err != nil {
			return fmt.Errorf("snapshot %q: %w", key, err)
		}
		return nil
	})
	if err != nil || info.Kind != snapshots.KindActive {
		return usage, plain(err)
	}
	if usage, ok := s.quota.usage(id); ok {
		return usage, nil
	}
	usage, err = s.counter.ask(ctx, id, func(ctx context.Context) (snapshots.Usage, error) { return s.count(ctx, id) })
	if err = s.removedMeanwhile(ctx, key, id, err); err != nil {
		return usage, fmt.Errorf("snapshot %q: %w", key, err)
	}
	return usage, nil
}

// removedMeanwhile says of an error that it is because the snapshot was removed. Where a record has no files it is
// another.
func (s *Snapshotter) removedMeanwhile(ctx context.Context, key, id string, err error) error {
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.mu.Lock() // who renames the directory has not recorded it yet
	defer s.mu.Unlock()
	now := ""
	rerr := s.read(ctx, func(ctx context.Context) (err error) {
		now, _, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if errdefs.IsNotFound(rerr) || rerr == nil && now != id {
		return fmt.Errorf("removed meanwhile: %w", errdefs.ErrNotFound)
	}
	return err
}

// count counts the files of a snapshot.
func (s *Snapshotter) count(ctx context.Context, id string) (snapshots.Usage, error) {
	t := tree{root: s.dirs.fs(id), sync: syncNone}
	return t.walk(ctx)
}

const (
	patience = 5 * time.Millisecond
	counting = 2  // trees at a time
	leisure  = 10 // times as long as counting took, before it is counted again
)

// A counter counts trees in the background, each once at a time.
type counter struct {
	ctx   context.Context
	stop  context.CancelFunc
	slots chan struct{}
	all   sync.WaitGroup

	mu    sync.Mutex
	trees map[string]*figure
}

// A figure is the last count of one tree.
type figure struct {
	usage  snapshots.Usage
	err    error
	known  bool
	next   time.Time     // not counted again before
	behind chan struct{} // closed when the count under way is done; nil if none is
}

func newCounter() *counter {
	c := &counter{slots: make(chan struct{}, counting), trees: make(map[string]*figure)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

func (c *counter) close() {
	c.stop()
	c.all.Wait()
}

// forget drops the figure of a snapshot that is no longer active.
func (c *counter) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.trees, id)
}

// ask gives a new count if it can be had soon, the last one if there is one, and else the new one
// when it is there.
func (c *counter) ask(ctx context.Context, id string, count func(context.Context) (snapshots.Usage, error)) (snapshots.Usage, error) {
	c.mu.Lock()
	f := c.trees[id]
	if f == nil {
		f = &figure{}
		c.trees[id] = f
	}
	if f.behind == nil && f.known && time.Now().Before(f.next) {
		defer c.mu.Unlock()
		return f.usage, f.err
	}
	if f.behind == nil {
		f.behind = make(chan struct{})
		c.all.Go(func() { c.run(f, count) })
	}
	behind, known := f.behind, f.known
	c.mu.Unlock()

	var late <-chan time.Time
	if known {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-behind:
	case <-late:
	case <-ctx.Done():
		return snapshots.Usage{}, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.usage, f.err
}

func (c *counter) run(f *figure, count func(context.Context) (snapshots.Usage, error)) {
	c.slots <- struct{}{}
	begun := time.Now()
	usage, err := count(c.ctx)
	took := time.Since(begun)
	<-c.slots
	c.mu.Lock()
	defer c.mu.Unlock()
	f.usage, f.err, f.known = usage, err, err == nil
	if f.next = time.Now(); took > patience {
		f.next = f.next.Add(leisure * took)
	}
	close(f.behind)
	f.behind = nil
}
