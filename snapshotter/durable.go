package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// A syncMode is what makes the files of a directory tree durable.
type syncMode int

const (
	// syncNone: nothing does, or nothing is asked for.
	syncNone syncMode = iota
	// syncJournal: the file system has one journal for all, in order (ext4, xfs). Once the data of
	// a file are written back, its size and blocks are in the journal like its name is, so that
	// one fsync of anything that was changed later makes all of it durable, with one flush
	// of the disk's cache. sync_file_range(2) warns that it writes no metadata: here the journal
	// does. ext4 converts unwritten extents, and xfs updates sizes, before a page counts as written back.
	syncJournal
	// syncEach: every file and directory by itself. fsync in btrfs logs that one inode alone, and that of a
	// directory the symlinks in it, too (kernel commit d0e64a981fd8).
	syncEach
	// syncWhole: the whole file system, by syncfs(2), before the mark is made. Where there is no journal, or
	// where what fsync does is not known, nothing else brings symlinks and device nodes to the disk.
	syncWhole
)

// workers walk a tree at a time, at most. Their number bounds the descriptors a walk holds, and is what
// keeps a disk busy when each file is synced by itself.
const workers = 8

// ahead is how many files of a worker are written back at a time. Each is held open until it is on disk, so that
// nothing has to be looked up again.
const ahead = 64

// A tree is walked by several goroutines, without following symlinks: what is in it was written by
// an image or a container.
type tree struct {
	root string
	sync syncMode

	mu    sync.Mutex
	more  sync.Cond
	all   sync.WaitGroup
	fd    int      // of root
	todo  []string // directories, relative to root
	hands int      // that work, or wait for work
	busy  int
	err   error
	usage snapshots.Usage
	links map[[2]uint64]bool // files with several names, by device and inode
}

// A worker walks directories. What it has begun to write back it waits for, in the same order.
type worker struct {
	*tree
	buffer []byte
	open   []int
	usage  snapshots.Usage // of what has one name
}

// walk counts all that is in the tree, and syncs it as far as the tree is to be synced by itself.
func (t *tree) walk(ctx context.Context) (usage snapshots.Usage, err error) {
	if t.fd, err = unix.Open(t.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return usage, fmt.Errorf("%s: open: %w", t.root, err)
	}
	defer unix.Close(t.fd)
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return usage, fmt.Errorf("%s: stat: %w", t.root, err)
	}
	if t.sync == syncWhole {
		if err := unix.Syncfs(t.fd); err != nil {
			return usage, fmt.Errorf("%s: syncfs: %w", t.root, err)
		}
	}
	t.more.L = &t.mu
	t.links = make(map[[2]uint64]bool)
	t.todo, t.hands = []string{"."}, 1
	t.usage = snapshots.Usage{Inodes: 1, Size: st.Blocks * 512}
	t.work(ctx) // a tree of one directory needs nobody else
	t.all.Wait()
	return t.usage, t.err
}

// found notes a directory, and gets one more worker for it if there can be.
func (t *tree) found(ctx context.Context, dir string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.todo = append(t.todo, dir)
	t.more.Signal()
	if t.hands < workers && len(t.todo) > 1 {
		t.hands++
		t.all.Go(func() { t.work(ctx) })
	}
}

// work takes directories until there are none and nobody can find more.
func (t *tree) work(ctx context.Context) {
	w := worker{tree: t, buffer: make([]byte, 16<<10)}
	for {
		dir, ok := t.take()
		if !ok {
			break
		}
		err := ctx.Err()
		if err == nil {
			err = w.directory(ctx, dir)
		}
		t.done(err)
	}
	for len(w.open) > 0 {
		t.fail(w.settle())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.usage.Add(w.usage)
}

// take gives a directory, and nothing if there are none and nobody can find more.
func (t *tree) take() (dir string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.todo) == 0 && t.busy > 0 && t.err == nil {
		t.more.Wait()
	}
	if len(t.todo) == 0 || t.err != nil {
		t.more.Broadcast()
		return "", false
	}
	dir = t.todo[len(t.todo)-1]
	t.todo = t.todo[:len(t.todo)-1]
	t.busy++
	return dir, true
}

func (t *tree) done(err error) {
	t.fail(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy--
	if t.busy == 0 || t.err != nil {
		t.more.Broadcast()
	}
}

// fail notes the first error.
func (t *tree) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && t.err == nil {
		t.err = err
	}
}

// directory does one directory: its files now, its directories later.
func (w *worker) directory(ctx context.Context, path string) error {
	fd, err := openBeneath(w.fd, path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) {
		return nil // a container is at work, or something is mounted there
	}
	if err != nil {
		return fmt.Errorf("%s/%s: open: %w", w.root, path, err)
	}
	defer unix.Close(fd)
	names := make([]string, 0, 64)
	for {
		n, err := unix.ReadDirent(fd, w.buffer)
		if err != nil {
			return fmt.Errorf("%s/%s: getdents: %w", w.root, path, err)
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(w.buffer[:n], -1, names[:0])
		for _, name := range names {
			if err := w.entry(ctx, fd, path, name); err != nil {
				return fmt.Errorf("%s/%s/%s: %w", w.root, path, name, err)
			}
		}
	}
	if w.sync == syncEach {
		if err := unix.Fsync(fd); err != nil {
			return fmt.Errorf("%s/%s: fsync: %w", w.root, path, err)
		}
	}
	return nil
}

// openBeneath opens a directory to read, without leaving that which dir is: not by a symlink, not by "..", and not
// by a mount. Where a rename comes between the kernel may not be able to tell: openat2(2), EAGAIN.
func openBeneath(dir int, path string) (fd int, err error) {
	const tries = 1000
	for range tries {
		fd, err = unix.Openat2(dir, path, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}

// entry counts one name of a directory.
func (w *worker) entry(ctx context.Context, dir int, path, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return fmt.Errorf("stat: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		w.found(ctx, path+"/"+name)
	case unix.S_IFREG:
		if err := w.file(dir, name, &st); err != nil {
			return err
		}
	}
	w.add(&st)
	return nil
}

// file syncs one regular file, or begins to.
func (w *worker) file(dir int, name string, st *unix.Stat_t) error {
	switch {
	case w.sync == syncNone, w.sync == syncWhole, w.sync == syncJournal && st.Size == 0:
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	for (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)) && len(w.open) > 0 {
		if err := w.settle(); err != nil {
			return err
		}
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if w.sync == syncEach {
		defer unix.Close(fd)
		if err := unix.Fsync(fd); err != nil {
			return fmt.Errorf("fsync: %w", err)
		}
		return nil
	}
	w.open = append(w.open, fd)
	if err := unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE); err != nil {
		return fmt.Errorf("sync_file_range: %w", err)
	}
	if len(w.open) == ahead {
		return w.settle()
	}
	return nil
}

// settle waits until the file that was begun first is on disk.
func (w *worker) settle() error {
	fd := w.open[0]
	w.open = append(w.open[:0], w.open[1:]...)
	defer unix.Close(fd)
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	if err := unix.SyncFileRange(fd, 0, 0, all); err != nil {
		return fmt.Errorf("%s: sync_file_range: %w", w.root, err)
	}
	return nil
}

// add counts an inode once, whatever the number of its names.
func (w *worker) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && !w.first(st) {
		return
	}
	w.usage.Inodes++
	w.usage.Size += st.Blocks * 512
}

// first tells whether an inode with several names was not seen before.
func (t *tree) first(st *unix.Stat_t) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	inode := [2]uint64{st.Dev, st.Ino}
	if t.links[inode] {
		return false
	}
	t.links[inode] = true
	return true
}
