package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
)

const (
	snapshotter = "overlayfs"
	image       = "mini.test/busybox:latest"
)

// A contender is one way to run containers.
type contender struct {
	name   string
	shim   string // path of the shim
	binary string // the runtime beneath it, "" for mini
	hollow bool   // it makes no container
	group  string // all its containers share a shim, "" for one each

	opts []oci.SpecOpts // what its spec has to have, see probe
}

func names(all []contender) []string {
	var list []string
	for _, c := range all {
		list = append(list, c.name)
	}
	return list
}

// linked is the shim's file in the PATH of containerd, which makes it out of the runtime's name.
func (c contender) linked() string { return "containerd-shim-" + c.name + "-v2" }

// runtime is what containerd's client has to ask for.
func (c contender) runtime() containerd.NewContainerOpts {
	name := "io.containerd." + c.name + ".v2"
	if c.group != "" {
		// As an operator writes it: reading TOML counts.
		return containerd.WithRuntime(name, &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "shim_group = %q\n", c.group)})
	}
	if c.binary == "" {
		return containerd.WithRuntime(name, nil)
	}
	return containerd.WithRuntime(name, &runcoptions.Options{BinaryName: c.binary})
}

// daemon is the containerd that serves all contenders.
type daemon struct {
	*config
	bin    string // the PATH of containerd begins here
	client *containerd.Client
	image  containerd.Image
	ctx    context.Context // with the namespace of the run
}

func (d *daemon) grpc() string  { return d.dir + "/c.sock" }
func (d *daemon) ttrpc() string { return d.dir + "/c.sock.ttrpc" }

const daemonConfig = `version = 3
root = "%[1]s/root"
state = "/run/containerd"
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
`

// start starts containerd and unpacks the image in it. It ends with our pid namespace.
func start(c *config) (*daemon, error) {
	d := &daemon{config: c, bin: c.dir + "/bin"}
	d.ctx = namespaces.WithNamespace(context.Background(), c.cgroup())
	if err := os.Mkdir(d.bin, 0o755); err != nil {
		return nil, err
	}
	for _, contender := range append(c.contenders(), c.grouped()) {
		shim, err := filepath.Abs(contender.shim)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(shim); err != nil {
			return nil, err
		}
		if err := os.Symlink(shim, filepath.Join(d.bin, contender.linked())); err != nil {
			return nil, err
		}
	}
	if err := d.launch(fmt.Sprintf(daemonConfig, d.dir)); err != nil {
		return nil, err
	}
	return d, d.load()
}

// launch starts containerd.
func (d *daemon) launch(configuration string) error {
	if err := os.WriteFile(d.dir+"/config.toml", []byte(configuration), 0o644); err != nil {
		return err
	}
	log, err := os.Create(d.dir + "/log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.tools+"/containerd", "--config", d.dir+"/config.toml")
	cmd.Env = append(os.Environ(), "PATH="+d.bin+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := d.connect(); err != nil {
		return fmt.Errorf("containerd: %w\n%s", err, d.logTail())
	}
	return nil
}

// connect waits until containerd serves.
func (d *daemon) connect() error {
	ctx, cancel := context.WithTimeout(d.ctx, 30*time.Second)
	defer cancel()
	var err error
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if _, err = os.Stat(d.grpc()); err != nil {
			continue
		}
		if d.client, err = containerd.New(d.grpc(), containerd.WithTimeout(30*time.Second)); err != nil {
			continue
		}
		var serving bool
		if serving, err = d.client.IsServing(ctx); err == nil && serving {
			return nil
		}
		d.client.Close()
	}
	return fmt.Errorf("does not serve: %w", err)
}

// load imports the archive of the image and unpacks it.
func (d *daemon) load() error {
	f, err := os.Open(d.archive)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := d.client.Import(d.ctx, f); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if d.image, err = d.client.GetImage(d.ctx, image); err != nil {
		return err
	}
	return d.image.Unpack(d.ctx, snapshotter)
}

// logTail is the end of what containerd and its shims said.
func (d *daemon) logTail() string {
	data, _ := os.ReadFile(d.dir + "/log")
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "the end of containerd's log:\n" + strings.Join(lines[max(0, len(lines)-20):], "\n")
}
