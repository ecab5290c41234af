package snapshotter

import (
	"context"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// metrics measure the requests, and describe what is there when they are read.
type metrics struct {
	registry *prometheus.Registry
	seconds  *prometheus.HistogramVec
	of       *Snapshotter
}

var (
	countDesc = prometheus.NewDesc("mini_snapshotter_snapshots", "Snapshots.", []string{"kind"}, nil)
	bytesDesc = prometheus.NewDesc("mini_snapshotter_committed_bytes", "What committed snapshots take.", nil, nil)
	trashDesc = prometheus.NewDesc("mini_snapshotter_trash_entries", "Snapshots that are removed and not deleted yet.", nil, nil)
)

func newMetrics(s *Snapshotter) *metrics {
	m := &metrics{of: s, registry: prometheus.NewRegistry(), seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "mini_snapshotter_request_seconds", Help: "Requests, by operation and gRPC code.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10), // to 26 s
	}, []string{"operation", "code"})}
	m.registry.MustRegister(m, m.seconds)
	return m
}

// Describe is of prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) {
	c <- countDesc
	c <- bytesDesc
	c <- trashDesc
}

// Collect counts the records: reading the metrics costs by their number, requests do not.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	counts := map[snapshots.Kind]int{snapshots.KindActive: 0, snapshots.KindView: 0, snapshots.KindCommitted: 0}
	var bytes int64
	err := m.of.read(context.Background(), func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if errdefs.IsNotFound(err) {
			return nil // nothing was ever recorded
		}
		for _, key := range ids {
			_, info, usage, err := storage.GetInfo(ctx, key)
			if err != nil {
				return err
			}
			counts[info.Kind]++
			bytes += usage.Size
		}
		return err
	})
	if err != nil {
		c <- prometheus.NewInvalidMetric(countDesc, plain(err))
		return
	}
	for kind, n := range counts {
		c <- prometheus.MustNewConstMetric(countDesc, prometheus.GaugeValue, float64(n), strings.ToLower(kind.String()))
	}
	c <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(bytes))
	c <- prometheus.MustNewConstMetric(trashDesc, prometheus.GaugeValue, float64(m.of.trash.left.Load()))
}

func (m *metrics) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	begin := time.Now()
	answer, err := handler(ctx, request)
	m.observe(info.FullMethod, err, begin)
	return answer, err
}

func (m *metrics) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	begin := time.Now()
	err := handler(server, stream)
	m.observe(info.FullMethod, err, begin)
	return err
}

func (m *metrics) observe(method string, err error, begin time.Time) {
	took := time.Since(begin)
	operation := path.Base(method)
	m.seconds.WithLabelValues(operation, status.Code(err).String()).Observe(took.Seconds())
	m.of.log.Debug("request", "operation", operation, "took", took, "error", err)
}

// ServeMetrics answers on /metrics at an address, "unix:PATH" or "HOST:PORT", until the context ends.
func (s *Snapshotter) ServeMetrics(ctx context.Context, address string) error {
	network := "tcp"
	if path, is := strings.CutPrefix(address, "unix:"); is {
		network, address = "unix", path
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }()
	return nil
}
