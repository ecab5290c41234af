package daemon

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// borrow makes a directory of the machine that a private mount is to lie on, and gives what to call at the
// end. To remove it is to take away the mount of every other test that has one there, in whatever
// namespace (rmdir(2) detaches it, kernel commit 8ed936b5671b). So each holds a shared lock on the
// directory itself, and the last one removes it.
func borrow(dir string) (giveBack func(), err error) {
	for {
		if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // somebody was the last one
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: flock: %w", dir, err)
		}
		locked, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if there, err := os.Stat(dir); err != nil || !os.SameFile(locked, there) {
			f.Close()
			continue // removed before it was locked
		}
		return func() {
			defer f.Close()
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				_ = os.Remove(dir) // what is not empty is not ours
			}
		}, nil
	}
}
