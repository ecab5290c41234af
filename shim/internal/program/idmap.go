package program

import (
	"fmt"
	"strings"
)

// IDMap is one line of a uid_map: user_namespaces(7).
type IDMap struct{ Inside, Outside, Size uint32 }

// IDMaps are the two maps of a user namespace.
type IDMaps struct{ UIDs, GIDs []IDMap }

// MapText is the content of a uid_map or gid_map.
func MapText(maps []IDMap) string {
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.Inside, m.Outside, m.Size)
	}
	return b.String()
}

// Outside is what the id is called in the parent namespace. ok is false for one
// that is not mapped.
func Outside(maps []IDMap, id uint32) (host uint32, ok bool) {
	for _, m := range maps {
		if id >= m.Inside && id-m.Inside < m.Size {
			return m.Outside + (id - m.Inside), true
		}
	}
	return 0, false
}

func (m *IDMaps) String() string {
	return "{uid " + mapLine(m.UIDs) + ", gid " + mapLine(m.GIDs) + "}"
}

func mapLine(maps []IDMap) string {
	parts := make([]string, len(maps))
	for i, m := range maps {
		parts[i] = fmt.Sprintf("%d:%d:%d", m.Inside, m.Outside, m.Size)
	}
	return strings.Join(parts, ",")
}
