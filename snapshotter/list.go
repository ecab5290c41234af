package snapshotter

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// List writes a line for each snapshot of the service at address, of all namespaces.
func List(ctx context.Context, address string, w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "KIND\tAGE\tSIZE\tINODES\tNAME\tPARENT")
	err := each(ctx, address, func(info snapshots.Info, usage snapshots.Usage) {
		age := time.Since(info.Created).Round(time.Second)
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", info.Kind, age, size(usage.Size), usage.Inodes, info.Name, info.Parent)
	})
	if err != nil {
		return err
	}
	return table.Flush()
}

// Totals writes what the snapshots of the service at address take, by kind.
func Totals(ctx context.Context, address string, w io.Writer) error {
	count := make(map[snapshots.Kind]int)
	sum := make(map[snapshots.Kind]snapshots.Usage)
	err := each(ctx, address, func(info snapshots.Info, usage snapshots.Usage) {
		count[info.Kind]++
		all := sum[info.Kind]
		all.Add(usage)
		sum[info.Kind] = all
	})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "KIND\tCOUNT\tSIZE\tINODES")
	for _, kind := range []snapshots.Kind{snapshots.KindCommitted, snapshots.KindActive, snapshots.KindView} {
		fmt.Fprintf(table, "%s\t%d\t%s\t%d\n", kind, count[kind], size(sum[kind].Size), sum[kind].Inodes)
	}
	return table.Flush()
}

// each asks the service for all snapshots, and for what each takes.
func each(ctx context.Context, address string, f func(snapshots.Info, snapshots.Usage)) error {
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	defer conn.Close()
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "mini")
	var all []snapshots.Info
	err = client.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		all = append(all, info)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	for _, info := range all {
		usage, err := client.Usage(ctx, info.Name)
		if err != nil {
			continue // it went meanwhile
		}
		f(info, usage)
	}
	return nil
}

// size is a number of bytes for people.
func size(n int64) string {
	const units = "BKMGT"
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%c", value, units[unit])
}
