package snapshotter

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// shared knows which snapshots have their files in common. A link snapshots/ID -> OWNER is made when a
// layer is to be unpacked whose diff id a committed snapshot has: its files are the same wherever
// in an image it stands, if they were written without a parent (overlayExtract). Prepare then gives a
// mount that cannot be written to, which tells containerd 2.4 that there is nothing to fetch; older
// ones do not say the diff id.
type shared struct {
	mu    sync.Mutex                 // for who reads outside of a transaction that writes
	owner map[string]string          // of each link
	links map[string]map[string]bool // of each owner
	gone  map[string]bool            // owners without a record
	diffs map[string]string          // diff id to the number of a snapshot that may have it
}

func newShared() *shared {
	return &shared{
		owner: make(map[string]string), links: make(map[string]map[string]bool),
		gone: make(map[string]bool), diffs: make(map[string]string),
	}
}

// join notes a link.
func (s *shared) join(id, owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner[id] = owner
	if s.links[owner] == nil {
		s.links[owner] = make(map[string]bool)
	}
	s.links[owner][id] = true
}

// leave says which directories nobody needs when the record of id goes, links first, and what there
// is to forget when it is gone.
func (s *shared) leave(id string) (free []string, forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner, is := s.owner[id]; is {
		free = []string{id}
		last := len(s.links[owner]) == 1
		if last && s.gone[owner] {
			free = append(free, owner)
		}
		return free, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.owner, id)
			delete(s.links[owner], id)
			if last {
				delete(s.links, owner)
				delete(s.gone, owner)
			}
		}
	}
	if len(s.links[id]) > 0 {
		return nil, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.gone[id] = true
		}
	}
	return []string{id}, func() {}
}

// offer notes that id has the files of a diff id.
func (s *shared) offer(diff, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner, is := s.owner[id]; is {
		id = owner
	}
	s.diffs[diff] = id
}

// find gives the snapshot that has the files of a diff id. Its mark proves it: that it is
// there, that all of it is on disk, and that it was written without a parent.
func (s *shared) find(d dirs, diff string) (id string, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.diffs[diff]
	if !ok {
		return "", false
	}
	if text, err := os.ReadFile(d.layer(id)); err != nil || string(text) != diff+"\n" {
		delete(s.diffs, diff)
		return "", false
	}
	return id, true
}

// real is the snapshot that has the files of id.
func (s *shared) real(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner, is := s.owner[id]; is {
		return owner
	}
	return id
}

// diffID is the diff id of a committed layer, if that is proven: containerd's unpacker has compared
// the diff ids of an image's configuration with what it unpacked, and names a layer by the chain of
// them. The label alone proves nothing: before 2.4 an image could write it itself, as an annotation.
func diffID(name, parent string, labels map[string]string) (string, bool) {
	diff := labels[snapshots.LabelSnapshotDiffID]
	if diff == "" || parent == "" {
		return "", false
	}
	// image-spec config.md, "Layer ChainID".
	chain := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(clientName(parent)+" "+diff)))
	return diff, chain == clientName(name)
}

// writeLayer writes the mark of a committed snapshot. To sync it is to sync all that was done to
// the file system before (durable.go). Without a diff id it is empty, which is one block less to write.
func (d dirs) writeLayer(id, diff string) (m mark, err error) {
	// Not by os.OpenFile: what it asks of a file that may be polled is half of the cost.
	path := d.layer(id)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return m, &os.PathError{Op: "open", Path: path, Err: err}
	}
	m.file = os.NewFile(uintptr(fd), path)
	if diff == "" {
		return m, nil
	}
	if _, err := m.file.WriteString(diff + "\n"); err != nil {
		return m, errors.Join(err, m.remove())
	}
	return m, nil
}
