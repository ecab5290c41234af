package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Fsck looks for what is wrong below the root, and mends it if it is to. Nobody may use it meanwhile: a
// service that runs is an error. Each finding is a line. What a start mends by itself
// is found too: fsck can be asked after a crash, before it.
func Fsck(c Config, repair bool) (findings []string, err error) {
	d := dirs{c.Root}
	if findings, err = checkStore(d.metadata()); err != nil {
		return findings, err
	}
	if len(findings) > 0 { // nothing else can be believed, and nothing is to be done by machine
		return findings, fmt.Errorf("%s is damaged, which is not mended: begin with an empty root, and pull the images again", d.metadata())
	}
	store, err := openStore(d.metadata())
	if err != nil {
		return nil, err
	}
	inv, err := takeStock(d, store)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	findings, broken := check(d, inv)
	if repair && len(broken) > 0 {
		err = dropBroken(store, inv, broken)
	}
	if err := errors.Join(err, store.Close()); err != nil || !repair {
		return findings, err
	}
	// The rest is what every start does.
	c.Log = slog.New(slog.DiscardHandler)
	s, err := Open(c)
	if err != nil {
		return findings, err
	}
	if err := s.trash.empty(); err != nil {
		return findings, errors.Join(err, s.Close())
	}
	return findings, s.Close()
}

// checkStore has bolt check its pages, and checks that each record is whole.
func checkStore(path string) (findings []string, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: storeTimeout, ReadOnly: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: in use: stop mini-snapshotter first", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			findings = append(findings, fmt.Sprintf("%s: %v", path, err))
		}
		return nil
	})
	return findings, err
}

// check compares records and directories. broken are the records that cannot be mended.
func check(d dirs, inv inventory) (findings []string, broken map[string]bool) {
	broken = make(map[string]bool)
	byName := make(map[string]string)
	for id, info := range inv.records {
		byName[info.Name] = id
	}
	say := func(format string, args ...any) { findings = append(findings, fmt.Sprintf(format, args...)) }
	needed, parents := inv.needed(), inv.parents()
	for name := range inv.dirs {
		if !needed[name] {
			say("snapshots/%s: belongs to no record", name)
		}
	}
	for id, info := range inv.records {
		switch _, inTrash := inv.trash[id]; {
		case inv.lacks(id) && inTrash:
			say("%s: its removal was cut short, it is in the trash", info.Name)
		case inv.lacks(id) && info.Kind != snapshots.KindCommitted:
			say("%s: its directory was lost in a power cut", info.Name)
		case inv.lacks(id):
			say("%s: its files are gone (snapshots/%s)", info.Name, id)
			broken[id] = true
		case info.Kind == snapshots.KindCommitted && !exists(d.layer(id)) && !parents[info.Name]:
			say("%s: its Commit was cut short (snapshots/%s)", info.Name, id)
		case info.Kind == snapshots.KindCommitted && !exists(d.layer(id)):
			say("%s: committed, but not known to be on disk (snapshots/%s)", info.Name, id)
		}
		if _, ok := byName[info.Parent]; info.Parent != "" && !ok {
			say("%s: its parent %s is gone", info.Name, info.Parent)
			broken[id] = true
		}
	}
	for spread := true; spread; { // what stands on something broken is broken
		spread = false
		for id, info := range inv.records {
			if parent, ok := byName[info.Parent]; ok && broken[parent] && !broken[id] {
				say("%s: stands on %s", info.Name, info.Parent)
				broken[id], spread = true, true
			}
		}
	}
	slices.Sort(findings)
	return findings, broken
}

// dropBroken removes the records of what cannot be used, children first, so that the next pull
// makes it anew. Their files, if any, the next start throws away.
func dropBroken(store *storage.MetaStore, inv inventory, broken map[string]bool) error {
	return store.WithTransaction(context.Background(), true, func(ctx context.Context) error {
		for left := len(broken); left > 0; {
			before := left
			var last error
			for id := range broken {
				if _, _, err := storage.Remove(ctx, inv.records[id].Name); err != nil {
					last = err
					continue
				}
				delete(broken, id)
				left--
			}
			if left == before {
				return fmt.Errorf("fsck: %s: %w", strings.Join(slices.Sorted(maps.Keys(broken)), ", "), last)
			}
		}
		return nil
	})
}
