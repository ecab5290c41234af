package snapshotter

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// idmap is where root of a user namespace is outside of it. The files stay as they are: whoever
// mounts the snapshot maps the layers (mount_setattr(2), MOUNT_ATTR_IDMAP). Only the upper directory
// is the container's own and belongs to its root.
type idmap struct{ uid, gid int }

// readIDMap reads the labels that containerd describes a user namespace by. Both or none are there.
func readIDMap(labels map[string]string) (*idmap, error) {
	uids, gids := labels[snapshots.LabelSnapshotUIDMapping], labels[snapshots.LabelSnapshotGIDMapping]
	if uids == "" && gids == "" {
		return nil, nil
	}
	uid, err := rootOf(uids)
	if err != nil {
		return nil, fmt.Errorf("label %s: %w", snapshots.LabelSnapshotUIDMapping, err)
	}
	gid, err := rootOf(gids)
	if err != nil {
		return nil, fmt.Errorf("label %s: %w", snapshots.LabelSnapshotGIDMapping, err)
	}
	return &idmap{uid: uid, gid: gid}, nil
}

// rootOf finds what 0 is mapped to in "CONTAINER:HOST:LENGTH,...", the form of /proc/PID/uid_map
// (user_namespaces(7)).
func rootOf(text string) (int, error) {
	for entry := range strings.SplitSeq(text, ",") {
		fields := strings.Split(entry, ":")
		if len(fields) != 3 {
			return 0, fmt.Errorf("mapping %q: %w", entry, errdefs.ErrInvalidArgument)
		}
		var n [3]uint64
		for i, field := range fields {
			var err error
			if n[i], err = strconv.ParseUint(field, 10, 32); err != nil {
				return 0, fmt.Errorf("mapping %q: %w", entry, errdefs.ErrInvalidArgument)
			}
		}
		// The last of all numbers is no id: chown(2) takes it for "leave it as it is".
		if max(n[0], n[1])+n[2] > math.MaxUint32 {
			return 0, fmt.Errorf("mapping %q: beyond the last id: %w", entry, errdefs.ErrInvalidArgument)
		}
		if n[0] == 0 && n[2] > 0 {
			return int(n[1]), nil
		}
	}
	return 0, fmt.Errorf("mapping %q: maps no root: %w", text, errdefs.ErrInvalidArgument)
}
