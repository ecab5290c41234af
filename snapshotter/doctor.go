package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Doctor says what the directory of all that is kept is on, or would be, and what to do where that makes layers wait.
func Doctor(c Config) (what, advice string) {
	dir := filepath.Clean(c.Root)
	for {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			break
		}
		dir = filepath.Dir(dir)
	}
	name, mode, err := fileSystem(dir)
	if err != nil {
		return "snapshotter: " + err.Error(), "root in its configuration has to be a directory"
	}
	what = fmt.Sprintf("snapshotter: %s is on %s", c.Root, name)
	if dir != filepath.Clean(c.Root) {
		what = fmt.Sprintf("snapshotter: %s is not there yet, and would be on %s", c.Root, name)
	}
	if mode != syncWhole {
		return what, ""
	}
	what += ", which has no journal that is known here"
	if !c.Durable {
		return what, "" // nothing waits
	}
	return what + ": each layer waits until all that anybody has written there is on disk",
		"ext4 with a journal, xfs or btrfs for root; or durable = false, where layers may be lost in a power cut"
}
