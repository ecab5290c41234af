package snapshotter

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A trash deletes what is in the trash directory: one goroutine, one file at a time, so that removing
// images does not take the disk from the containers that run.
type trash struct {
	dirs  dirs
	quota *quota
	log   *slog.Logger
	bell  chan struct{} // holds one ring
	stop  chan struct{}
	all   sync.WaitGroup
	left  atomic.Int64 // entries at the last look
	mu    sync.Mutex   // one deletes
	held  sync.Map     // names whose transaction is not on disk yet
}

// again is how long to wait after something could not be deleted: a mount may be on it, descriptors
// may have run out.
const again = 30 * time.Second

// lull is how long the trash lies.
const lull = 500 * time.Millisecond

func newTrash(d dirs, q *quota, log *slog.Logger) *trash {
	t := &trash{dirs: d, quota: q, log: log, bell: make(chan struct{}, 1), stop: make(chan struct{})}
	t.wake() // what an earlier life has left
	t.all.Go(t.run)
	return t
}

// hold keeps a name that is about to come from being deleted.
func (t *trash) hold(name string) { t.held.Store(name, nil) }

// release lets it be deleted.
func (t *trash) release(name string) { t.held.Delete(name) }

// wake says that there is something to delete. It never waits.
func (t *trash) wake() {
	select {
	case t.bell <- struct{}{}:
	default:
	}
}

func (t *trash) close() {
	close(t.stop)
	t.all.Wait()
}

func (t *trash) run() {
	var retry <-chan time.Time
	for {
		select {
		case <-t.stop:
			return
		case <-t.bell:
		case <-retry:
		}
		retry = nil
		// Whoever removes one snapshot often removes or prepares more. Deleting in between would have
		// each of those wait for the journal.
		select {
		case <-t.stop:
			return
		case <-time.After(lull):
		}
		if err := t.empty(); err != nil {
			t.log.Warn("trash is not empty", "error", err)
			retry = time.After(again)
		}
	}
}

// errStopped ends the work in the middle; the next start takes it up.
var errStopped = errors.New("stopped")

// empty deletes all that is there, also what comes meanwhile.
func (t *trash) empty() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		entries, err := os.ReadDir(t.dirs.trash())
		if err != nil {
			return err
		}
		t.left.Store(int64(len(entries)))
		var errs []error
		deleted := false
		for _, e := range entries {
			if _, held := t.held.Load(e.Name()); held {
				continue // who releases it rings the bell
			}
			deleted = true
			if err := t.delete(e.Name()); errors.Is(err, errStopped) {
				return nil
			} else if err != nil {
				errs = append(errs, fmt.Errorf("%s/%s: %w", t.dirs.trash(), e.Name(), err))
				continue
			}
			t.left.Add(-1)
		}
		if !deleted || len(errs) > 0 {
			return errors.Join(errs...)
		}
	}
}

func (t *trash) delete(name string) error {
	fd, err := unix.Open(t.dirs.trash(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := t.unlink(fd, fd, name, 0); err != nil {
		return err
	}
	id, _, _ := strings.Cut(name, ".")
	return t.quota.free(id) // what is not a number has no project
}

// deepest is how far down unlink goes at once. A container can nest directories without end, and each
// level takes a descriptor: what is deeper is moved up into the trash itself and deleted from there.
const deepest = 64

// unlink deletes one name, with all below it. It follows no symlink and crosses no mount.
func (t *trash) unlink(trash, dir int, name string, depth int) error {
	select {
	case <-t.stop:
		return errStopped
	default:
	}
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	// unlinkat(2): EISDIR in Linux, EPERM in POSIX.
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s: unlink: %w", name, err)
	}
	err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) // most directories are empty, or soon will be
	if err == nil {
		return nil
	}
	if depth == deepest {
		return t.surface(trash, dir, name)
	}
	// EXDEV: something is mounted there, and what is in it is not ours.
	fd, err := openBeneath(dir, name)
	if err != nil {
		return fmt.Errorf("%s: open: %w", name, err)
	}
	err = t.clear(trash, fd, depth+1)
	unix.Close(fd)
	if err != nil {
		return fmt.Errorf("%s/%w", name, err)
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("%s: rmdir: %w", name, err)
	}
	return nil
}

// clear deletes what is in a directory. Names that are deleted while getdents(2) reads are not read
// twice, but some may be left out: so it reads until there are none.
func (t *trash) clear(trash, fd, depth int) error {
	buffer := make([]byte, 8<<10)
	for {
		if _, err := unix.Seek(fd, 0, 0); err != nil {
			return fmt.Errorf("seek: %w", err)
		}
		found := false
		for {
			n, err := unix.ReadDirent(fd, buffer)
			if err != nil {
				return fmt.Errorf("getdents: %w", err)
			}
			if n == 0 {
				break
			}
			_, _, names := unix.ParseDirent(buffer[:n], -1, nil)
			for _, name := range names {
				found = true
				if err := t.unlink(trash, fd, name, depth); err != nil {
					return err
				}
			}
		}
		if !found {
			return nil
		}
	}
}

// surface moves a directory to the top of the trash.
func (t *trash) surface(trash, dir int, name string) error {
	to := fmt.Sprintf("deep.%d", discarded.Add(1))
	if err := unix.Renameat2(dir, name, trash, to, unix.RENAME_NOREPLACE); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s: rename: %w", name, err)
	} else if err != nil {
		return t.surface(trash, dir, name)
	}
	return nil
}
