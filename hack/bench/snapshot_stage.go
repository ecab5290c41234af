package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// builtin is the name of containerd's own snapshotter.
const builtin = "overlayfs"

// variants are the snapshotters of mini, and how they are configured.
func (c *config) variants() []variant {
	all := []variant{{"mini", c.miniSnapshotter, ""}}
	for _, also := range c.alsoSnapshotter {
		all = append(all, variant{also.name, also.shim, ""})
	}
	// What is comparable with the one that is built in, which leaves a layer to the page cache.
	return append(all, variant{"mini-undurable", c.miniSnapshotter, "durable = false\n"})
}

type variant struct{ name, binary, config string }

// peers are what the snapshotters of mini are compared with: the one that is built in, and one that does nothing.
var peers = []variant{{name: builtin}, {name: hollowName}}

// The daemon of the snapshot part. Its collector runs when it is asked to: by itself it would run in the
// middle of something else.
const stageConfig = `version = 3
root = "%[1]s/root"
state = "/run/containerd-snapshots"
disabled_plugins = [
	"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
	"io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.nri.v1.nri",
	"io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "%[1]s/c.sock"

[ttrpc]
address = "%[1]s/c.sock.ttrpc"

[plugins."io.containerd.internal.v1.opt"]
path = "%[1]s/opt"

[plugins."io.containerd.gc.v1.scheduler"]
mutation_threshold = 0
deletion_threshold = 0

[plugins."io.containerd.transfer.v1.local"]
max_concurrent_unpacks = 4
`

const unpackConfig = `[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = %q
differ = "walking"
`

const proxyConfig = `[proxy_plugins.%[1]s]
type = "snapshot"
address = %[2]q
capabilities = ["rebase"]
`

// raise starts the snapshotters and a containerd that has them all.
func (r *run) raise() (*stage, error) {
	c := *r.config
	c.dir += "/sn"
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return nil, err
	}
	s := &stage{run: &run{daemon: &daemon{config: &c, ctx: namespaces.WithNamespace(r.ctx, "bench")}},
		stores: make(map[string]store), sizes: c.sizes}
	var text strings.Builder
	fmt.Fprintf(&text, stageConfig, c.dir)
	all := append(c.variants(), peers...)
	for _, v := range all {
		s.all = append(s.all, contender{name: v.name, hollow: v.name == hollowName})
		fmt.Fprintf(&text, unpackConfig, v.name)
	}
	for _, v := range all {
		if v.name == builtin {
			continue
		}
		address, err := s.serve(v, v.name+"-through")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
		fmt.Fprintf(&text, proxyConfig, v.name, address)
	}
	if err := s.launch(text.String()); err != nil {
		return nil, err
	}
	for _, v := range all {
		address, err := s.serve(v, v.name+"-direct")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
		direct, err := connectTo(address)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
		st := store{name: v.name, direct: direct, through: s.client.SnapshotService(v.name)}
		for _, sn := range []snapshots.Snapshotter{st.direct, st.through} {
			err := until(s.ctx, v.name, func() error {
				if _, err := sn.Stat(s.ctx, "none"); !errdefs.IsNotFound(err) {
					return err
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		s.stores[v.name] = st
	}
	return s, nil
}

// serve starts a snapshotter. It ends with our pid namespace.
func (s *stage) serve(v variant, name string) (address string, err error) {
	dir := s.dir + "/" + name
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	address = dir + "/s"
	cmd := self(v.name)
	cmd.Env = append(cmd.Env, stageEnv+"="+dir)
	if v.binary != "" {
		file := dir + "/config.toml"
		if err := os.WriteFile(file, []byte(v.config), 0o600); err != nil {
			return "", err
		}
		cmd = exec.Command(v.binary, "--config", file, "--root", dir+"/root", "--address", address, "--log-level", "warn")
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	return address, until(s.ctx, name+" listens", func() error { _, err := os.Stat(address); return err })
}

// stageEnv is the directory of a snapshotter that is this program.
const stageEnv = "MINI_BENCH_SNAPSHOTTER"

// serveOverlay puts containerd's own snapshotter behind a socket, with its default of removing
// files when containerd has collected garbage.
func serveOverlay() error {
	s, err := overlay.NewSnapshotter(os.Getenv(stageEnv)+"/root", overlay.AsynchronousRemove)
	if err != nil {
		return err
	}
	return errors.Join(serveSnapshots(snapshotservice.FromSnapshotter(s)), s.Close())
}

func serveSnapshots(s snapshotsapi.SnapshotsServer) error {
	l, err := net.Listen("unix", os.Getenv(stageEnv)+"/s")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, s)
	return server.Serve(l)
}

func connectTo(address string) (snapshots.Snapshotter, error) {
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "direct"), nil
}
