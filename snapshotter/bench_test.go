package snapshotter

import (
	"fmt"
	"os"
	"testing"

	"github.com/containerd/continuity/fs"
)

// files writes n files of a page each, a hundred to a directory.
func files(b *testing.B, dir string, n int) {
	b.Helper()
	page := make([]byte, 4096)
	for i := range n {
		below := fmt.Sprintf("%s/%d", dir, i/100)
		if i%100 == 0 {
			must(b, os.Mkdir(below, 0o755))
		}
		must(b, os.WriteFile(fmt.Sprintf("%s/%d", below, i), page, 0o644))
	}
}

// What a request costs without the socket.
func BenchmarkRequests(b *testing.B) {
	needRoot(b)
	s := open(b, b.TempDir())
	must(b, second(s.Prepare(ctx, "base-key", "")))
	must(b, s.Commit(ctx, "base", "base-key"))
	must(b, second(s.Prepare(ctx, "box", "base")))
	for _, request := range []struct {
		name string
		do   func() error
	}{
		{"Stat", func() error { return second(s.Stat(ctx, "box")) }},
		{"Mounts", func() error { return second(s.Mounts(ctx, "box")) }},
		{"Usage", func() error { return second(s.Usage(ctx, "box")) }},
	} {
		b.Run(request.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				must(b, request.do())
			}
		})
	}
}

// Counting a big tree whose inodes are in memory.
func BenchmarkCount(b *testing.B) {
	needRoot(b)
	s := open(b, b.TempDir())
	must(b, second(s.Prepare(ctx, "box", "")))
	files(b, s.dirs.fs("1"), 20000)
	b.ReportAllocs()
	for b.Loop() {
		must(b, second(s.count(ctx, "1")))
	}
}

// The same through the quota, where the kernel counts, and as containerd's own snapshotter counts: for a guest.
func BenchmarkGuestUsageQuota(b *testing.B) {
	for _, name := range []string{"ext4", "xfs"} {
		s := open(b, onQuota(b, name)+"/root")
		must(b, second(s.Prepare(ctx, "box", "")))
		files(b, s.dirs.fs("1"), 10000)
		b.Run(name+"/quota", func(b *testing.B) {
			for b.Loop() {
				must(b, second(s.Usage(ctx, "box")))
			}
		})
		b.Run(name+"/overlayfs", func(b *testing.B) {
			for b.Loop() {
				must(b, second(fs.DiskUsage(ctx, s.dirs.fs("1"))))
			}
		})
	}
}

// A Commit, with all its files on disk.
func BenchmarkCommit(b *testing.B) {
	needRoot(b)
	for _, n := range []int{1, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := open(b, b.TempDir())
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				key := fmt.Sprint("key-", i)
				must(b, second(s.Prepare(ctx, key, "")))
				id, _, err := s.committable(ctx, "none", key)
				must(b, err)
				files(b, s.dirs.fs(id), n)
				b.StartTimer()
				must(b, s.Commit(ctx, fmt.Sprint("layer-", i), key))
			}
		})
	}
}
