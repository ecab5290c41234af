package snapshotter

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"google.golang.org/grpc"
)

// The peers: ours through its socket, and containerd's overlayfs with its default of removing
// later, called directly as containerd does and through a socket of the same make.
var peers = []struct {
	name string
	open func(b *testing.B, dir string) snapshots.Snapshotter
}{
	{"mini/socket", func(b *testing.B, dir string) snapshots.Snapshotter {
		return overSocket(b, open(b, dir+"/root"), dir)
	}},
	{"overlayfs/direct", openOverlayfs},
	{"overlayfs/socket", func(b *testing.B, dir string) snapshots.Snapshotter {
		return overSocket(b, openOverlayfs(b, dir), dir)
	}},
}

func openOverlayfs(b *testing.B, dir string) snapshots.Snapshotter {
	b.Helper()
	s, err := overlay.NewSnapshotter(dir+"/root", overlay.AsynchronousRemove)
	must(b, err)
	b.Cleanup(func() { must(b, s.Close()) })
	return s
}

func overSocket(b *testing.B, s snapshots.Snapshotter, dir string) snapshots.Snapshotter {
	b.Helper()
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	client, closeAll, err := serve(server, dir+"/s")
	must(b, err)
	b.Cleanup(func() { must(b, closeAll()) })
	return client
}

// populate commits a base and prepares n snapshots on it.
func populate(b *testing.B, s snapshots.Snapshotter, n int) {
	b.Helper()
	must(b, second(s.Prepare(ctx, "base-key", "")))
	must(b, s.Commit(ctx, "base", "base-key"))
	for i := range n {
		must(b, second(s.Prepare(ctx, fmt.Sprintf("old-%d", i), "base")))
	}
}

// BenchmarkLife is the life of a container's snapshot, one request after the other, next to n others.
func BenchmarkLife(b *testing.B) {
	needRoot(b)
	for _, n := range []int{1, 1000, 10000} {
		for _, peer := range peers {
			b.Run(fmt.Sprintf("n=%d/%s", n, peer.name), func(b *testing.B) {
				s := peer.open(b, b.TempDir())
				populate(b, s, n)
				requests := []struct {
					name string
					do   func(key string) error
				}{
					{"Prepare", func(key string) error { return second(s.Prepare(ctx, key, "base")) }},
					{"Mounts", func(key string) error { return second(s.Mounts(ctx, key)) }},
					{"Stat", func(key string) error { return second(s.Stat(ctx, key)) }},
					{"Commit", func(key string) error { return s.Commit(ctx, "c-"+key, key) }},
					{"View", func(key string) error { return second(s.View(ctx, "v-"+key, "c-"+key)) }},
					{"RemoveView", func(key string) error { return s.Remove(ctx, "v-"+key) }},
					{"Remove", func(key string) error { return s.Remove(ctx, "c-"+key) }},
				}
				took := make([]int64, len(requests))
				for i := 0; b.Loop(); i++ {
					key := fmt.Sprintf("k%d", i)
					for j, r := range requests {
						before := b.Elapsed()
						must(b, r.do(key))
						took[j] += int64(b.Elapsed() - before)
					}
				}
				for j, r := range requests {
					b.ReportMetric(float64(took[j])/float64(b.N)/1000, r.name+"-µs")
				}
			})
		}
	}
}

// BenchmarkConcurrentPrepare is what a node does that starts many pods.
func BenchmarkConcurrentPrepare(b *testing.B) {
	needRoot(b)
	for _, peer := range peers {
		b.Run(peer.name, func(b *testing.B) {
			s := peer.open(b, b.TempDir())
			populate(b, s, 1)
			var n atomic.Int64
			b.SetParallelism(8) // times the processors
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := second(s.Prepare(ctx, fmt.Sprintf("p%d", n.Add(1)), "base")); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkBig is a layer of 20,000 files: to count it while it is active, to ask for it when it is
// committed, and to remove it with what it takes until its space is free.
func BenchmarkBig(b *testing.B) {
	needRoot(b)
	for _, peer := range peers {
		b.Run(peer.name, func(b *testing.B) {
			s := peer.open(b, b.TempDir())
			cleaner := s.(snapshots.Cleaner)
			var active, commit, usage, remove int64
			for i := 0; b.Loop(); i++ {
				key := fmt.Sprintf("k%d", i)
				mounts, err := s.Prepare(ctx, key, "")
				must(b, err)
				writeFiles(b, mounts[0].Source, 20000)
				active += timed(b, func() error { return second(s.Usage(ctx, key)) })
				commit += timed(b, func() error { return s.Commit(ctx, "c"+key, key) })
				usage += timed(b, func() error { return second(s.Usage(ctx, "c"+key)) })
				remove += timed(b, func() error {
					if err := s.Remove(ctx, "c"+key); err != nil {
						return err
					}
					return cleaner.Cleanup(ctx) // containerd's collector waits for it
				})
			}
			for name, took := range map[string]int64{"UsageActive": active, "Commit": commit, "Usage": usage, "Remove": remove} {
				b.ReportMetric(float64(took)/float64(b.N)/1000, name+"-µs")
			}
		})
	}
}

func timed(b *testing.B, f func() error) int64 {
	before := b.Elapsed()
	must(b, f())
	return int64(b.Elapsed() - before)
}

func writeFiles(b *testing.B, root string, n int) {
	b.Helper()
	text := make([]byte, 4096)
	for i := range n {
		dir := filepath.Join(root, fmt.Sprint(i/100))
		if i%100 == 0 {
			must(b, os.Mkdir(dir, 0o755))
		}
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), text, 0o644))
	}
}
