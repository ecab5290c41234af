package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
)

// tracing sends a span of each request to where the standard OTEL_* variables say, the same that containerd
// goes by. A request of containerd that is traced goes on in ours. Without them requests are not touched.
// stop sends what was not sent yet.
func tracing(ctx context.Context) (opts []grpc.ServerOption, stop func(), err error) {
	stop = func() {}
	if text := os.Getenv("OTEL_SDK_DISABLED"); text != "" {
		disabled, err := strconv.ParseBool(text)
		if err != nil {
			return nil, stop, fmt.Errorf("OTEL_SDK_DISABLED=%s: not a boolean", text)
		}
		if disabled {
			return nil, stop, nil
		}
	}
	switch name := os.Getenv("OTEL_TRACES_EXPORTER"); name {
	case "", "otlp":
	case "none":
		return nil, stop, nil
	default:
		return nil, stop, fmt.Errorf("OTEL_TRACES_EXPORTER=%s: want otlp or none", name)
	}
	if first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return nil, stop, nil
	}
	var exporter *otlptrace.Exporter
	switch protocol := first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); protocol {
	case "", "http/protobuf":
		exporter, err = otlptracehttp.New(ctx)
	case "grpc":
		exporter, err = otlptracegrpc.New(ctx)
	default:
		err = fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL=%s: want http/protobuf or grpc", protocol)
	}
	if err != nil {
		return nil, stop, fmt.Errorf("tracing: %w", err)
	}
	if os.Getenv("OTEL_SERVICE_NAME") == "" {
		if err := os.Setenv("OTEL_SERVICE_NAME", "mini-snapshotter"); err != nil {
			return nil, stop, err
		}
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	stop = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second) // a collector may be gone
		defer cancel()
		_ = provider.Shutdown(ctx)
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler())}, stop, nil
}

// first is the first variable that is set.
func first(names ...string) string {
	for _, name := range names {
		if value := os.Getenv(name); value != "" {
			return value
		}
	}
	return ""
}
