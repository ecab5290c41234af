package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// An inventory is what is there: records and directories.
type inventory struct {
	records map[string]snapshots.Info // by number
	dirs    map[string]bool           // in snapshots/, with the links
	links   map[string]string         // of those, the symlinks, and where to
	trash   map[string]string         // by number, the newest
}

// recover brings records and directories together again. doc.go has the table.
func (s *Snapshotter) recover() error {
	inv, err := takeStock(s.dirs, s.store)
	if err != nil {
		return err
	}
	if err := s.restore(&inv); err != nil {
		return err
	}
	if err := s.retract(inv); err != nil {
		return err
	}
	if err := s.sweep(inv); err != nil {
		return err
	}
	return s.index(inv)
}

func takeStock(d dirs, store *storage.MetaStore) (inv inventory, err error) {
	inv = inventory{
		records: make(map[string]snapshots.Info), dirs: make(map[string]bool),
		links: make(map[string]string), trash: make(map[string]string),
	}
	err = store.WithTransaction(context.Background(), false, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if errdefs.IsNotFound(err) {
			return nil // nothing was ever recorded
		} else if err != nil {
			return err
		}
		for id, key := range ids {
			if _, inv.records[id], _, err = storage.GetInfo(ctx, key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return inv, fmt.Errorf("%s: %w", d.metadata(), plain(err))
	}
	entries, err := os.ReadDir(d.snapshots())
	if err != nil {
		return inv, err
	}
	for _, e := range entries {
		inv.dirs[e.Name()] = true
		if e.Type() == os.ModeSymlink {
			if inv.links[e.Name()], err = os.Readlink(d.snapshot(e.Name())); err != nil {
				return inv, err
			}
		}
	}
	entries, err = os.ReadDir(d.trash())
	if err != nil {
		return inv, err
	}
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		inv.trash[id] = e.Name()
	}
	return inv, nil
}

// restore takes out of the trash what has a record: the transaction that threw it away did not
// happen. Nothing was deleted of it, since deleting begins after the transaction.
func (s *Snapshotter) restore(inv *inventory) error {
	back := func(id string) error {
		from, ok := inv.trash[id]
		if !ok || inv.dirs[id] {
			return nil
		}
		s.log.Info("a removal was cut short", "snapshot", inv.records[id].Name, "id", id)
		to := s.dirs.snapshot(id)
		if err := os.Rename(s.dirs.trash()+"/"+from, to); err != nil {
			return err
		}
		inv.dirs[id] = true
		if owner, err := os.Readlink(to); err == nil {
			inv.links[id] = owner
		}
		return nil
	}
	for id := range inv.records {
		if err := back(id); err != nil {
			return err
		}
	}
	for id, owner := range inv.links {
		if _, ok := inv.records[id]; ok {
			if err := back(owner); err != nil {
				return err
			}
		}
	}
	return nil
}

// retract takes back each Commit that a power cut has cut short: the record came to the disk before the
// mark did. Nobody was told of it, so nothing stands on it. And it takes away the mark of a snapshot whose
// record did not come there: it will be written to again.
func (s *Snapshotter) retract(inv inventory) error {
	parents := inv.parents()
	for id, info := range inv.records {
		switch marked := exists(s.dirs.layer(id)); {
		case info.Kind == snapshots.KindActive && marked && inv.links[id] == "":
			if err := os.Remove(s.dirs.layer(id)); err != nil {
				return err
			}
		case info.Kind == snapshots.KindCommitted && !marked && s.Durable && !parents[info.Name]:
			s.log.Warn("a Commit was cut short", "snapshot", info.Name, "id", id)
			err := s.store.WithTransaction(context.Background(), true, func(ctx context.Context) error {
				_, _, err := storage.Remove(ctx, info.Name)
				return err
			})
			if err != nil {
				return plain(err)
			}
			delete(inv.records, id)
		}
	}
	return nil
}

// sweep throws away what nobody needs, and makes what was lost and can be made.
func (s *Snapshotter) sweep(inv inventory) error {
	needed := inv.needed()
	for name := range inv.dirs {
		if needed[name] {
			continue
		}
		// Its number may be given out again: the limit goes now, and the trash does not know the number.
		if err := s.quota.free(name); err != nil {
			return err
		}
		if err := s.dirs.discard(name, "orphan"); err != nil {
			return err
		}
	}
	for id, info := range inv.records {
		if !inv.lacks(id) {
			continue
		}
		if info.Kind == snapshots.KindCommitted {
			s.log.Error("a layer has no files: see `mini snapshotter fsck`", "snapshot", info.Name, "id", id)
			continue
		}
		s.log.Warn("an active snapshot is made anew after a power cut", "snapshot", info.Name, "id", id)
		if err := s.remake(id, info); err != nil {
			return err
		}
	}
	return nil
}

// needed are the directories of records, and those they link to.
func (inv inventory) needed() map[string]bool {
	needed := make(map[string]bool)
	for id := range inv.records {
		needed[id] = true
		if owner, ok := inv.links[id]; ok {
			needed[owner] = true
		}
	}
	return needed
}

// parents are the names of the records that others stand on.
func (inv inventory) parents() map[string]bool {
	parents := make(map[string]bool)
	for _, info := range inv.records {
		parents[info.Parent] = true
	}
	return parents
}

// lacks tells whether a record should have a directory and has none.
func (inv inventory) lacks(id string) bool {
	info := inv.records[id]
	if info.Kind == snapshots.KindView && info.Parent != "" {
		return false // a view of a parent has no files of its own
	}
	owner, linked := inv.links[id]
	return !inv.dirs[id] || linked && !inv.dirs[owner]
}

// remake makes the directory that a power cut took.
func (s *Snapshotter) remake(id string, info snapshots.Info) error {
	ids, err := readIDMap(info.Labels)
	if err != nil {
		return err
	}
	var parents []string
	err = s.read(context.Background(), func(ctx context.Context) error {
		snapshot, err := storage.GetSnapshot(ctx, info.Name)
		parents = snapshot.ParentIDs
		return err
	})
	if err != nil {
		return plain(err)
	}
	dir, err := s.dirs.temporary(info.Kind == snapshots.KindActive)
	if err != nil {
		return err
	}
	err = s.own(dir+"/fs", request{info: info, ids: ids}, parents)
	if errors.Is(err, os.ErrNotExist) {
		err = nil // so is the parent; that is fsck's affair
	}
	if err != nil {
		return err
	}
	if info.Kind == snapshots.KindActive {
		limit, err := s.limit(info)
		if err != nil {
			return err
		}
		if err := s.quota.hold(id, dir, limit); err != nil {
			return err
		}
	}
	return os.Rename(dir, s.dirs.snapshot(id))
}

// index remembers the links, and the layers that further links may be made to.
func (s *Snapshotter) index(inv inventory) error {
	s.shared = newShared()
	for id, owner := range inv.links {
		if _, ok := inv.records[id]; !ok {
			continue
		}
		s.shared.join(id, owner)
		if _, ok := inv.records[owner]; !ok {
			s.shared.gone[owner] = true
		}
	}
	for id, info := range inv.records {
		if info.Kind != snapshots.KindCommitted {
			continue
		}
		if diff, ok := diffID(info.Name, info.Parent, info.Labels); ok {
			s.shared.offer(diff, id)
		}
	}
	return nil
}
