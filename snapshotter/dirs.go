package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// dirs knows where things are; see doc.go.
type dirs struct{ root string }

func (d dirs) metadata() string  { return d.root + "/metadata.db" }
func (d dirs) empty() string     { return d.root + "/empty" }
func (d dirs) trash() string     { return d.root + "/trash" }
func (d dirs) snapshots() string { return d.root + "/snapshots" }

func (d dirs) snapshot(id string) string { return d.root + "/snapshots/" + id }
func (d dirs) fs(id string) string       { return d.snapshot(id) + "/fs" }
func (d dirs) work(id string) string     { return d.snapshot(id) + "/work" }
func (d dirs) layer(id string) string    { return d.snapshot(id) + "/layer" }

// make makes the directories that are always there. Nobody but root may walk into the layers: there
// are setuid programs in them (CVE-2021-41103).
func (d dirs) make() error {
	if !filepath.IsAbs(d.root) {
		return fmt.Errorf("root %q: not an absolute path", d.root)
	}
	// These characters separate overlay's options; escaped they work for mount(8), but not for
	// everyone who reads lowerdir=, such as containerd's applier.
	if strings.ContainsAny(d.root, `:,\`) {
		return fmt.Errorf("root %q: a colon, comma or backslash cannot be in the path of an overlay layer", d.root)
	}
	if err := os.MkdirAll(d.root, 0o700); err != nil {
		return err
	}
	for dir, mode := range map[string]os.FileMode{d.snapshots(): 0o700, d.empty(): 0o755, d.trash(): 0o700} {
		if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// temporary makes the directory of a snapshot under a temporary name.
func (d dirs) temporary(active bool) (string, error) {
	dir, err := os.MkdirTemp(d.snapshots(), "new-")
	if err != nil {
		return "", err
	}
	if err := fill(dir, active); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// fill makes what is in the directory of a snapshot.
func fill(dir string, active bool) error {
	step("fill: dir made")
	// The mode of fs is that of the container's root directory: the umask must not touch it.
	if err := os.Mkdir(dir+"/fs", 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir+"/fs", 0o755); err != nil {
		return err
	}
	step("fill: fs made")
	if !active {
		return nil
	}
	return os.Mkdir(dir+"/work", 0o711)
}

var discarded atomic.Uint64

// discard renames a directory of snapshots/ into the trash.
func (d dirs) discard(name, as string) error {
	return os.Rename(d.snapshot(name), d.trash()+"/"+d.unused(as))
}

// unused is a name in the trash for what was called name. The same number may come there again: one whose
// transaction failed is given anew.
func (d dirs) unused(name string) string {
	for {
		to := fmt.Sprintf("%s.%d", name, discarded.Add(1))
		if !exists(d.trash() + "/" + to) { // of an earlier life of this process
			return to
		}
	}
}
