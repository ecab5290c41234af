package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

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
// mapped. The layers have one mapped clone between them, that of the directory
// they are all in: a mount for each layer is what containerd issue 12092 is about.
func openMappedOverlay(m Mount, ids *program.IDMaps, ns *maker) (int, error) {
	top := commonDir(m)
	mapped, err := openTree(top, false)
	if err != nil {
		return -1, err
	}
	defer unix.Close(mapped)
	if err := ns.idmap(mapped, ids, false); err != nil {
		return -1, err
	}
	in := &mappedDir{top, mapped}
	fd, err := overlay(m, in)
	if errors.Is(err, errOnePage) || errors.Is(err, unix.EINVAL) {
		return overlayInOnePage(m, in)
	}
	return fd, err
}

// mappedDir is a directory of the host, and an id-mapped mount of it.
type mappedDir struct {
	path string
	fd   int
}

// open opens a directory, in the mapped one if there is one.
func (d *mappedDir) open(path string) (int, error) {
	if d == nil {
		return openDir(unix.AT_FDCWD, path)
	}
	below, err := filepath.Rel(d.path, path)
	if err != nil {
		return -1, err
	}
	return openDir(d.fd, below)
}

// commonDir is the deepest directory that holds all lower layers.
func commonDir(m Mount) string {
	var top string
	for _, o := range m.Options {
		value, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			continue
		}
		for _, l := range splitLayers(value) {
			dir := filepath.Clean(l.path)
			if top == "" {
				top = dir
			}
			for top != "/" && dir != top && !strings.HasPrefix(dir, top+"/") {
				top = filepath.Dir(top)
			}
		}
	}
	if top == "" {
		return "/"
	}
	return top
}
