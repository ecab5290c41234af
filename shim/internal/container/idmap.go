package container

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// takeIDs takes the mapping out of the options of a snapshotter's mount: those of
// containerd say uidmap=INSIDE:OUTSIDE:SIZE, with a comma between ranges, and
// gidmap= likewise.
func takeIDs(options []string) (*program.IDMaps, []string, error) {
	var ids program.IDMaps
	var rest []string
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		var to *[]program.IDMap
		switch key {
		case "uidmap":
			to = &ids.UIDs
		case "gidmap":
			to = &ids.GIDs
		default:
			rest = append(rest, o)
			continue
		}
		for line := range strings.SplitSeq(value, ",") {
			m, err := parseIDMap(line)
			if err != nil {
				return nil, nil, fmt.Errorf("option %s: %w", o, err)
			}
			*to = append(*to, m)
		}
	}
	switch {
	case ids.UIDs == nil && ids.GIDs == nil:
		return nil, rest, nil
	case ids.UIDs == nil || ids.GIDs == nil:
		return nil, nil, errors.New("options uidmap and gidmap: one without the other")
	}
	return &ids, rest, nil
}

func parseIDMap(line string) (program.IDMap, error) {
	part := strings.Split(line, ":")
	if len(part) != 3 {
		return program.IDMap{}, fmt.Errorf("%q: want INSIDE:OUTSIDE:SIZE", line)
	}
	var n [3]uint32
	for i, p := range part {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return program.IDMap{}, err
		}
		n[i] = uint32(v)
	}
	return program.IDMap{Inside: n[0], Outside: n[1], Size: n[2]}, nil
}

// openMappedOverlay mounts an overlay whose lower layers are id-mapped; what is
// written above them has the ids of the host anyway. Overlayfs itself cannot be
// mapped.
func openMappedOverlay(m Mount, ids *program.IDMaps, ns *maker) (int, error) {
	in, err := openMappedLayers(m, ids, ns)
	if err != nil {
		return -1, err
	}
	defer in.close()
	if takesDetached() {
		return overlay(m, in)
	}
	return overlayInOnePage(m, in)
}

// openMappedLayers is the directory of an overlay's lower layers, id-mapped.
func openMappedLayers(m Mount, ids *program.IDMaps, ns *maker) (*layerDir, error) {
	in, err := openLayerDir(commonDir(lowerLayers(m)))
	if err != nil {
		return nil, err
	}
	if err := ns.idmap(in.clone, ids, false); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}
