package snapshotter

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A quota holds active snapshots to a size, and knows what they take, where the file system has project
// quotas: ext4 and xfs, mounted with prjquota. Each active snapshot is a project of its own, its upper and
// its work directory together, since overlay renames from one to the other.
//
// The number of a project is that of the snapshot's record, after a base: so it is given out and
// kept by the transaction that makes the record, never twice, and nothing else must be kept. The
// kernel forgets a project that has no limit and no files: its limit goes when the trash is emptied.
//
// Who writes needs no CAP_SYS_RESOURCE to be held to it: overlay lowers that capability of whoever
// mounted it (ovl_fill_super, "never override disk quota limits").
type quota struct {
	root *os.File
	base uint32
}

// openQuota gives nil where projects are not limited.
func openQuota(c Config) (*quota, error) {
	root, err := os.Open(c.Root)
	if err != nil {
		return nil, err
	}
	if !limitsProjects(int(root.Fd())) {
		return nil, root.Close()
	}
	return &quota{root: root, base: c.FirstProject}, nil
}

func (q *quota) close() error {
	if q == nil {
		return nil
	}
	return q.root.Close()
}

// project is that of a snapshot.
func (q *quota) project(id string) (uint32, error) {
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil || n > uint64(math.MaxUint32-q.base) {
		return 0, fmt.Errorf("snapshot %s: no number of a project is left for it", id)
	}
	return q.base + uint32(n), nil
}

// hold puts the directory dir of an active snapshot into its project, with a limit or with none.
func (q *quota) hold(id, dir string, limit int64) error {
	if q == nil {
		return nil
	}
	project, err := q.project(id)
	if err != nil {
		return err
	}
	// Also without a limit: one may be left of a snapshot of this number that was never recorded.
	if err := projectLimit(int(q.root.Fd()), project, limit); err != nil {
		return fmt.Errorf("project %d: limit: %w", project, err)
	}
	step("quota: limited")
	for _, name := range []string{"/fs", "/work"} {
		if err := setProject(dir+name, project); err != nil {
			return fmt.Errorf("%s: project %d: %w", dir+name, project, err)
		}
	}
	return nil
}

// free forgets the limit of a snapshot that is gone.
func (q *quota) free(id string) error {
	if q == nil {
		return nil
	}
	project, err := q.project(id)
	if err != nil {
		return nil // never had one
	}
	if err := projectLimit(int(q.root.Fd()), project, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("project %d: limit: %w", project, err)
	}
	return nil
}

// usage is what an active snapshot takes, with overlay's work directory. A snapshot that was made before
// there were quotas is in no project.
func (q *quota) usage(id string) (u snapshots.Usage, ok bool) {
	if q == nil {
		return u, false
	}
	project, err := q.project(id)
	if err != nil {
		return u, false
	}
	u.Size, u.Inodes, err = projectUsage(int(q.root.Fd()), project)
	return u, err == nil && u.Inodes > 0
}

// limit is the size that an active snapshot is to be held to, 0 for none. The label is a number of bytes;
// that of a layer which is unpacked is not the configured one.
func (c Config) limit(info snapshots.Info) (int64, error) {
	if info.Kind != snapshots.KindActive {
		return 0, nil
	}
	text := info.Labels[snapshots.LabelSnapshotMaxSize]
	if text == "" {
		if strings.HasPrefix(clientName(info.Name), snapshots.UnpackKeyPrefix+"-") {
			return 0, nil
		}
		return c.MaxSize, nil
	}
	limit, err := strconv.ParseInt(text, 10, 64)
	if err != nil || limit <= 0 || limit > math.MaxInt64-quotaBlock {
		return 0, fmt.Errorf("label %s=%s: not a number of bytes: %w", snapshots.LabelSnapshotMaxSize, text, errdefs.ErrInvalidArgument)
	}
	return limit, nil
}

// errNoQuota says why a limit cannot be had.
func (s *Snapshotter) errNoQuota(limit int64) error {
	return fmt.Errorf("%s or max_size of %d bytes: %s has no project quota: mount it with prjquota, or set ignore_quota to go on without: %w",
		snapshots.LabelSnapshotMaxSize, limit, s.features.FileSystem, errdefs.ErrNotImplemented)
}
