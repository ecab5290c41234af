package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// A store is a snapshotter, reached in both ways.
type store struct {
	name    string
	through snapshots.Snapshotter // through containerd
	direct  snapshots.Snapshotter // through a socket of its own, with other snapshots
}

// A stage is what the snapshot part plays on: a containerd of its own, and the snapshotters.
type stage struct {
	*run
	stores map[string]store
	sizes  []int
}

// rooted keeps a snapshot from containerd's collector.
var rooted = snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "bench"})

// onStage has f measure on the stage, which is raised once.
func (r *run) onStage(f func(*stage) error) (err error) {
	if r.stage == nil {
		if r.stage, err = r.raise(); err != nil {
			return err
		}
	}
	r.stage.table = table{}
	if err := f(r.stage); err != nil {
		return fmt.Errorf("%w\n%s", err, r.stage.logTail())
	}
	r.table.sections = append(r.table.sections, r.stage.table.sections...)
	return nil
}

// measureSnapshots compares the requests of mini-snapshotter with those of the snapshotter that is built
// into containerd.
func (s *stage) measureSnapshots() error {
	for _, way := range []struct {
		name string
		of   func(store) snapshots.Snapshotter
	}{
		{"through containerd", func(s store) snapshots.Snapshotter { return s.through }},
		{"socket to socket", func(s store) snapshots.Snapshotter { return s.direct }},
	} {
		if err := s.measureRequests(way.name, way.of); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
	}
	return nil
}

// section is one of the part's own columns.
func (s *stage) section(title, unit string) *section {
	t := s.table.section(title, unit)
	t.names = names(s.all)
	return t
}

// measureRequests does the life of a small snapshot, one request after the other, beside n others; then
// many Prepares at a time.
func (s *stage) measureRequests(way string, of func(store) snapshots.Snapshotter) error {
	before := 0
	for _, n := range s.sizes {
		for _, c := range s.all {
			if err := s.populate(of(s.stores[c.name]), before, n); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		before = n
		t := s.section(fmt.Sprintf("Requests %s, beside %d snapshots", way, n), "us")
		err := s.interleave(s.all, s.n, func(c contender, counts bool) error {
			return s.requests(t, c, counts, of(s.stores[c.name]))
		})
		if err != nil {
			return err
		}
	}
	t := s.section(fmt.Sprintf("%d of Prepare %s, %d at a time", 20*crowdWidth, way, crowdWidth), "per second")
	t.more = true
	return s.turns(s.all, func(c contender) error {
		sn, base := of(s.stores[c.name]), s.id(c)
		begun := time.Now()
		err := atOnce(20*crowdWidth, crowdWidth, func(i int) error {
			_, err := sn.Prepare(s.ctx, fmt.Sprintf("%s-%d", base, i), "base", rooted)
			return err
		})
		t.add("Prepare", c, float64(20*crowdWidth)/time.Since(begun).Seconds())
		if err != nil {
			return err
		}
		return atOnce(20*crowdWidth, crowdWidth, func(i int) error { return sn.Remove(s.ctx, fmt.Sprintf("%s-%d", base, i)) })
	})
}

// populate makes a base, and snapshots on it until there are n.
func (s *stage) populate(sn snapshots.Snapshotter, from, n int) error {
	if from == 0 {
		if _, err := sn.Prepare(s.ctx, "base-key", "", rooted); err != nil {
			return err
		}
		if err := sn.Commit(s.ctx, "base", "base-key", rooted); err != nil {
			return err
		}
	}
	return atOnce(n-from, crowdWidth, func(i int) error {
		_, err := sn.Prepare(s.ctx, fmt.Sprintf("old-%d", from+i), "base", rooted)
		return err
	})
}

// requests is the life of one snapshot.
func (s *stage) requests(t *section, c contender, counts bool, sn snapshots.Snapshotter) error {
	key := s.id(c)
	var mounts []mount.Mount
	for _, request := range []struct {
		name string
		do   func() error
	}{
		{"Prepare", func() (err error) { mounts, err = sn.Prepare(s.ctx, key, "base", rooted); return err }},
		{"", func() error { return c.fill(mounts, 1) }},
		{"Mounts", func() error { _, err := sn.Mounts(s.ctx, key); return err }},
		{"Stat", func() error { _, err := sn.Stat(s.ctx, key); return err }},
		{"Usage, active, 1 file", func() error { _, err := sn.Usage(s.ctx, key); return err }},
		{"Commit, 1 file", func() error { return sn.Commit(s.ctx, "c-"+key, key, rooted) }},
		{"View", func() error { _, err := sn.View(s.ctx, "v-"+key, "c-"+key, rooted); return err }},
		{"Remove, view", func() error { return sn.Remove(s.ctx, "v-"+key) }},
		{"Remove, committed", func() error { return sn.Remove(s.ctx, "c-"+key) }},
	} {
		begun := time.Now()
		if err := request.do(); err != nil {
			return fmt.Errorf("%s: %w", request.name, err)
		}
		if counts && request.name != "" {
			t.add(request.name, c, microseconds(time.Since(begun)))
		}
	}
	return nil
}

func microseconds(d time.Duration) float64 { return d.Seconds() * 1e6 }

// bigFiles are the files of the big layer, of one page each.
const bigFiles = 20000

// measureBig is the life of a big layer.
func (s *stage) measureBig() error {
	t := s.section(fmt.Sprintf("A layer of %d files through containerd", bigFiles), "us")
	return s.turns(s.all, func(c contender) error {
		sn, key := s.stores[c.name].through, s.id(c)
		if err := s.quieten(); err != nil {
			return err
		}
		mounts, err := sn.Prepare(s.ctx, key, "", rooted)
		if err != nil {
			return err
		}
		if err := c.fill(mounts, bigFiles); err != nil {
			return err
		}
		usage := func(key string) func() error {
			return func() error {
				u, err := sn.Usage(s.ctx, key)
				if err == nil && u.Inodes < bigFiles {
					err = fmt.Errorf("%d inodes", u.Inodes)
				}
				return err
			}
		}
		for _, request := range []struct {
			name string
			do   func() error
		}{
			{"Usage, active, first", usage(key)},
			{"Usage, active, again", usage(key)},
			{"Commit", func() error { return sn.Commit(s.ctx, "c-"+key, key, rooted) }},
			{"Usage, committed", usage("c-" + key)},
			{"Remove, with containerd's collector", func() error {
				return errors.Join(sn.Remove(s.ctx, "c-"+key), s.collect())
			}},
		} {
			begun := time.Now()
			if err := request.do(); err != nil {
				return fmt.Errorf("%s: %w", request.name, err)
			}
			t.add(request.name, c, microseconds(time.Since(begun)))
		}
		return nil
	})
}

// collect has containerd collect garbage, and waits for it.
func (s *stage) collect() error {
	manager := s.client.LeasesService()
	lease, err := manager.Create(s.ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	return manager.Delete(s.ctx, lease, leases.SynchronousDelete)
}

// quieten waits until what was removed is deleted, and what was written is on disk: it is not to be paid for
// by whoever comes next.
func (s *stage) quieten() error {
	err := until(s.ctx, "trash", func() error {
		left, err := filepath.Glob(s.dir + "/*/root/trash/*")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%q is still there", left[0])
		}
		return err
	})
	unix.Sync()
	return err
}

// upper is the directory that a snapshot's own files are in.
func upper(mounts []mount.Mount) string {
	for _, option := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
			return dir
		}
	}
	return mounts[0].Source // a bind mount
}

// fill writes n files of one page into what is mounted, if anything is.
func (c contender) fill(mounts []mount.Mount, n int) error {
	if c.hollow {
		return nil
	}
	dir := upper(mounts)
	page := make([]byte, 4096)
	for i := range n {
		below := filepath.Join(dir, fmt.Sprint(i/100))
		if i%100 == 0 {
			if err := os.Mkdir(below, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(below, fmt.Sprint(i)), page, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// until calls f until it succeeds.
func until(ctx context.Context, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
