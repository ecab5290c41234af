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
	// syncEach: every file and directory by itself. fsync in btrfs logs that one inode alone.
	syncEach
)

// workers walk a tree at a time, at most. Their number bounds the descriptors a walk holds, and is what
// keeps a disk busy when each file is synced by itself.
const workers = 8

// fewFiles are kept open by the first walk, so that a small tree needs no second one.
const fewFiles = 32

// A tree is walked by several goroutines, without following symlinks: what is in it was written by
// an image or a container.
type tree struct {
	root string
	sync syncMode
	wait bool // second time: wait for the writeback

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
	open  []int              // the first files whose writeback was begun
	full  bool               // they are not all
}

// walk counts all that is in the tree, and syncs it as far as the tree is to be synced by itself.
func (t *tree) walk(ctx context.Context) (snapshots.Usage, error) {
	defer func() {
		for _, fd := range t.open {
			unix.Close(fd)
		}
	}()
	if err := t.run(ctx); err != nil || t.sync != syncJournal {
		return t.usage, err
	}
	for _, fd := range t.open {
		if err := writtenBack(fd); err != nil {
			return t.usage, fmt.Errorf("%s: %w", t.root, err)
		}
	}
	if t.full {
		second := tree{root: t.root, sync: t.sync, wait: true}
		return t.usage, second.run(ctx)
	}
	return t.usage, nil
}

func (t *tree) run(ctx context.Context) (err error) {
	if t.fd, err = unix.Open(t.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("%s: open: %w", t.root, err)
	}
	defer unix.Close(t.fd)
	var st unix.Stat_t
	if err := unix.Fstat(t.fd, &st); err != nil {
		return fmt.Errorf("%s: stat: %w", t.root, err)
	}
	t.more.L = &t.mu
	t.links = make(map[[2]uint64]bool)
	t.todo, t.hands = []string{"."}, 1
	t.add(&st)
	t.work(ctx) // a tree of one directory needs nobody else
	t.all.Wait()
	return t.err
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
	buffer := make([]byte, 16<<10)
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		for len(t.todo) == 0 && t.busy > 0 {
			t.more.Wait()
		}
		if len(t.todo) == 0 || t.err != nil {
			t.more.Broadcast()
			return
		}
		dir := t.todo[len(t.todo)-1]
		t.todo = t.todo[:len(t.todo)-1]
		t.busy++
		t.mu.Unlock()
		err := ctx.Err()
		if err == nil {
			err = t.directory(ctx, dir, buffer)
		}
		t.mu.Lock()
		t.busy--
		if err != nil && t.err == nil {
			t.err = err
		}
		if t.busy == 0 || t.err != nil {
			t.more.Broadcast()
		}
	}
}

// directory does one directory: its files now, its directories later.
func (t *tree) directory(ctx context.Context, path string, buffer []byte) error {
	fd, err := unix.Openat2(t.fd, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil // a container is at work
	}
	if err != nil {
		return fmt.Errorf("%s/%s: open: %w", t.root, path, err)
	}
	defer unix.Close(fd)
	names := make([]string, 0, 64)
	for {
		n, err := unix.ReadDirent(fd, buffer)
		if err != nil {
			return fmt.Errorf("%s/%s: getdents: %w", t.root, path, err)
		}
		if n == 0 {
			break
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names[:0])
		for _, name := range names {
			if err := t.entry(ctx, fd, path, name); err != nil {
				return fmt.Errorf("%s/%s/%s: %w", t.root, path, name, err)
			}
		}
	}
	if t.sync == syncEach {
		if err := unix.Fsync(fd); err != nil {
			return fmt.Errorf("%s/%s: fsync: %w", t.root, path, err)
		}
	}
	return nil
}

// entry counts one name of a directory.
func (t *tree) entry(ctx context.Context, dir int, path, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return fmt.Errorf("stat: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		t.found(ctx, path+"/"+name)
	case unix.S_IFREG:
		if err := t.file(dir, name, &st); err != nil {
			return err
		}
	}
	t.add(&st)
	return nil
}

// file syncs one regular file.
func (t *tree) file(dir int, name string, st *unix.Stat_t) error {
	if t.sync == syncNone || t.sync == syncJournal && st.Size == 0 {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if t.sync == syncJournal && !t.wait && t.keep(fd) {
		if err := unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE); err != nil {
			return fmt.Errorf("sync_file_range: %w", err)
		}
		return nil
	}
	defer unix.Close(fd)
	switch {
	case t.sync == syncEach:
		if err := unix.Fsync(fd); err != nil {
			return fmt.Errorf("fsync: %w", err)
		}
	case t.wait:
		return writtenBack(fd)
	default:
		if err := unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE); err != nil {
			return fmt.Errorf("sync_file_range: %w", err)
		}
	}
	return nil
}

// keep takes an open file, if there are few.
func (t *tree) keep(fd int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) == fewFiles {
		t.full = true
		return false
	}
	t.open = append(t.open, fd)
	return true
}

// writtenBack waits until the pages of a file are on disk.
func writtenBack(fd int) error {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	if err := unix.SyncFileRange(fd, 0, 0, all); err != nil {
		return fmt.Errorf("sync_file_range: %w", err)
	}
	return nil
}

// add counts an inode once, whatever the number of its names.
func (t *tree) add(st *unix.Stat_t) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		inode := [2]uint64{st.Dev, st.Ino}
		if t.links[inode] {
			return
		}
		t.links[inode] = true
	}
	t.usage.Inodes++
	t.usage.Size += st.Blocks * 512
}
