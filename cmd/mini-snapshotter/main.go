// Command mini-snapshotter serves package snapshotter to containerd, as a proxy plugin. Without flags
// it reads /etc/mini-snapshotter/config.toml if that is there; a flag that is given wins.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/containerd-mini/mini/snapshotter"
)

const defaultConfig = "/etc/mini-snapshotter/config.toml"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mini-snapshotter:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	c, err := configure(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	traced, flush, err := tracing(ctx)
	if err != nil {
		return err
	}
	defer flush()
	// The root first: it is what only one process may have. Then a socket that answers to nobody
	// can only be one that was left behind.
	s, err := snapshotter.Open(c)
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := listen(c.Address)
	if err != nil {
		return err
	}
	if c.MetricsAddress != "" {
		if err := s.ServeMetrics(ctx, c.MetricsAddress); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	server := snapshotter.NewServer(s, traced...)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	slog.Info("serving", "address", l.Addr(), "root", c.Root, "fs", s.Features().FileSystem)
	notify("READY=1")

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop() // a second signal ends the process at once
	notify("STOPPING=1")
	slog.Info("stopping")
	// Requests that are under way are answered; a Commit may take long, and can be repeated.
	timer := time.AfterFunc(10*time.Second, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
	return s.Close()
}

// configure reads the flags, and the file they name.
func configure(args []string) (c snapshotter.Config, err error) {
	f := flag.NewFlagSet("mini-snapshotter", flag.ContinueOnError)
	file := f.String("config", "", "configuration `file`, TOML (default "+defaultConfig+", if it exists)")
	root := f.String("root", "", "`directory` of the snapshots")
	address := f.String("address", "", "`socket` to listen on")
	level := f.String("log-level", "", "debug, info, warn or error")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("%q: unknown argument", f.Arg(0))
	}
	path := *file
	if path == "" {
		path = defaultConfig
	}
	c, err = snapshotter.ReadConfig(path)
	if errors.Is(err, os.ErrNotExist) && *file == "" {
		err = nil
	}
	if err != nil {
		return c, err
	}
	for _, override := range []struct{ to, from *string }{{&c.Root, root}, {&c.Address, address}, {&c.LogLevel, level}} {
		if *override.from != "" {
			*override.to = *override.from
		}
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return c, fmt.Errorf("log level %q: debug, info, warn and error are known", c.LogLevel)
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})))
	return c, nil
}
