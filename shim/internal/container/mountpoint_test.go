package container

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLead: in trees of random symlinks a path that was led somewhere is one that
// the kernel then finds, inside the root; what cannot be is an error that the kernel
// has, too, and nothing outside has changed.
func TestLead(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	word := func() string {
		parts := make([]string, 1+random.IntN(4))
		for i := range parts {
			parts[i] = []string{"a", "b", "c", "d", "e", "..", ".", ""}[random.IntN(8)]
		}
		return []string{"", "", "/", "../../../"}[random.IntN(4)] + strings.Join(parts, "/")
	}
	led, refused := 0, 0
	for round := range 120 {
		outside := t.TempDir()
		dir := filepath.Join(outside, "root")
		must(t, os.Mkdir(dir, 0o755))
		at := []string{dir}
		for range 2 + random.IntN(8) {
			name := filepath.Join(at[random.IntN(len(at))], string(rune('a'+random.IntN(5))))
			target := word()
			switch {
			case random.IntN(3) > 0 && target != "":
				_ = os.Symlink(target, name) // or there is one already
			case os.Mkdir(name, 0o755) == nil:
				at = append(at, name)
			}
		}
		root, err := openDir(unix.AT_FDCWD, dir)
		must(t, err)
		path := word()
		err = lead(root, path, func(g *gap) error {
			names := g.names
			if len(names) == 0 {
				return errors.New("a gap with nothing in it")
			}
			for i := range names {
				if err := unix.Mkdirat(g.dir, strings.Join(names[:i+1], "/"), 0o755); err != nil {
					return fmt.Errorf("%q: %w", names, err)
				}
			}
			return nil
		})
		fd, kerr := openInRoot(root, "./"+path, unix.O_PATH)
		if kerr == nil {
			unix.Close(fd)
		}
		switch {
		case err == nil && kerr == nil:
			led++
		case errors.Is(err, unix.ELOOP):
			// The kernel may meet what is not there before it has seen enough.
			refused++
			if !errors.Is(kerr, unix.ELOOP) && !errors.Is(kerr, unix.ENOENT) {
				t.Errorf("seed %d, round %d: %q: %v, the kernel says %v", seed, round, path, err, kerr)
			}
		default:
			t.Errorf("seed %d, round %d: %q: %v, the kernel says %v", seed, round, path, err, kerr)
		}
		unix.Close(root)
		if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
			t.Errorf("seed %d, round %d: outside of the root there is %v, %v", seed, round, left, err)
		}
	}
	if led < 30 {
		t.Errorf("seed %d: %d were led, %d refused: not much was tried", seed, led, refused)
	}
}
