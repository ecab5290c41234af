package snapshotter

import (
	"strings"
	"testing"
)

// Advice is for where layers wait, whether the root is there yet or not.
func TestDoctor(t *testing.T) {
	for _, want := range []struct {
		fs    string
		waits bool
	}{{"ext4", false}, {"ext4 -O ^has_journal", true}, {"xfs", false}, {"tmpfs", false}} {
		t.Run(want.fs, func(t *testing.T) {
			name := strings.Fields(want.fs)[0]
			c := at(onFileSystem(t, want.fs) + "/not/yet")
			for _, where := range []string{c.Root + " is not there yet, and would be on " + name, c.Root + " is on " + name} {
				what, advice := Doctor(c)
				if !strings.Contains(what, where) || strings.Contains(what, "each layer waits") != want.waits || (advice != "") != want.waits {
					t.Errorf("%q, %q, want %q", what, advice, where)
				}
				must(t, open(t, c.Root).Close())
			}
			c.Durable = false
			if what, advice := Doctor(c); advice != "" || strings.Contains(what, "waits") {
				t.Errorf("where nothing is durable: %q, %q", what, advice)
			}
		})
	}
	c := at("/proc/version/root")
	if what, advice := Doctor(c); advice == "" || !strings.Contains(what, "not a directory") {
		t.Errorf("%q, %q", what, advice)
	}
}
