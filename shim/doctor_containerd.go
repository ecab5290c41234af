package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/containerd-mini/mini/shim/internal/systemd"
)

const (
	miniRuntime = "io.containerd.mini.v2"
	runcRuntime = "io.containerd.runc.v2"
)

// lookContainerd asks the containerd in PATH what it makes of its configuration file.
func lookContainerd(config string) []Finding {
	path, err := exec.LookPath("containerd")
	if err != nil {
		return []Finding{{What: "containerd is not in PATH", Advice: "mini serves containerd 1.7 to 2.4"}}
	}
	out, err := output(path, "--version")
	if err != nil {
		return []Finding{{What: err.Error(), Advice: "mini serves containerd 1.7 to 2.4"}}
	}
	found := []Finding{{What: strings.TrimSpace(string(out))}}
	if _, err := os.Stat(config); errors.Is(err, os.ErrNotExist) {
		return append(found, Finding{What: config + " is not there: ctr and nerdctl work, Kubernetes does not know a handler mini"})
	}
	// With what it imports, what it is migrated to, and the defaults.
	if out, err = output(path, "--config", config, "config", "dump"); err != nil {
		return append(found, Finding{What: err.Error(), Advice: "containerd does not start with " + config})
	}
	var c containerdConfig
	if err := toml.Unmarshal(out, &c); err != nil {
		return append(found, Finding{What: fmt.Sprintf("containerd config dump: %v", err), Advice: "mini serves containerd 1.7 to 2.4"})
	}
	return append(found, lookConfig(config, c, systemd.Booted() == nil)...)
}

// output is what a program prints; what it complains of is in the error.
func output(path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
		return nil, errors.New(lines[len(lines)-1])
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", path, strings.Join(args, " "), err)
	}
	return out, nil
}

// containerdConfig is what `containerd config dump` says about runtimes.
type containerdConfig struct {
	Version  int      `toml:"version"`
	Disabled []string `toml:"disabled_plugins"`
	Plugins  struct {
		V2 criConfig `toml:"io.containerd.grpc.v1.cri"`    // containerd 1.7
		V3 criConfig `toml:"io.containerd.cri.v1.runtime"` // later ones
	} `toml:"plugins"`
}

type criConfig struct {
	Containerd struct {
		Default  string             `toml:"default_runtime_name"`
		Runtimes map[string]handler `toml:"runtimes"`
	} `toml:"containerd"`
}

type handler struct {
	Type    string         `toml:"runtime_type"`
	Options map[string]any `toml:"options"`
}

// cri is the configuration of the CRI plugin, and the name of the table that it is in.
func (c containerdConfig) cri() (cri criConfig, table string) {
	if c.Version == 2 {
		return c.Plugins.V2, `plugins."io.containerd.grpc.v1.cri".containerd`
	}
	return c.Plugins.V3, `plugins."io.containerd.cri.v1.runtime".containerd`
}

// lookConfig tells whether Kubernetes would find the runtime, and by which cgroup driver. ctr
// and nerdctl need no configuration.
func lookConfig(file string, c containerdConfig, booted bool) []Finding {
	for _, plugin := range c.Disabled {
		if slices.Contains([]string{"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}, plugin) {
			return []Finding{{What: fmt.Sprintf("%s: %s is in disabled_plugins: ctr and nerdctl work, a kubelet does not", file, plugin)}}
		}
	}
	cri, table := c.cri()
	var handlers []string
	for name, h := range cri.Containerd.Runtimes {
		if h.Type == miniRuntime {
			handlers = append(handlers, name)
		}
	}
	if len(handlers) == 0 {
		return []Finding{{
			What:   fmt.Sprintf("%s has no handler of the type %s", file, miniRuntime),
			Advice: fmt.Sprintf("for Kubernetes add one, [%s.runtimes.mini]: docs/kubernetes.md, A node", table),
		}}
	}
	slices.Sort(handlers)
	found := []Finding{{What: fmt.Sprintf("%s has the runtime; handler %s", file, strings.Join(handlers, ", "))}}
	if name := cri.Containerd.Default; cri.Containerd.Runtimes[name].Type == "" {
		// containerd 1.7 forgets its default handler runc where there is any other.
		return append(found, Finding{
			What:   fmt.Sprintf("default_runtime_name is %q, and there is no such handler: containerd's CRI plugin does not load", name),
			Advice: fmt.Sprintf("add the handler, or default_runtime_name = %q to [%s]", handlers[0], table),
		})
	}
	return append(found, lookDriver(c.Version, cri, table, booted))
}

// lookDriver tells whether what containerd tells the kubelet fits the machine.
func lookDriver(version int, cri criConfig, table string, booted bool) Finding {
	if version == 2 {
		return Finding{What: "this containerd does not tell the kubelet a cgroup driver: what counts is cgroupDriver in the kubelet's configuration"}
	}
	needed := "cgroupfs"
	if booted {
		needed = "systemd"
	}
	told, by := cri.driver()
	switch told {
	case "":
		return Finding{What: "containerd tells the kubelet the cgroup driver that it finds itself: " + needed}
	case needed:
		return Finding{What: fmt.Sprintf("containerd tells the kubelet the cgroup driver %s, by handler %s", told, by)}
	}
	what := fmt.Sprintf("containerd tells the kubelet the cgroup driver %s, by handler %s; ", told, by)
	options := fmt.Sprintf("[%s.runtimes.%s.options]", table, by)
	if booted {
		return Finding{
			What:   what + "systemd has booted this machine, and the cgroups are its own",
			Advice: "SystemdCgroup = true in " + options + ", also where that handler is never used: docs/kubernetes.md, The cgroup driver",
		}
	}
	return Finding{
		What:   what + "systemd has not booted this machine: pods are refused",
		Advice: "SystemdCgroup = false in " + options,
	}
}

// driver is what containerd answers a kubelet that asks for the cgroup driver, and the handler it has it from:
// the default one, or the first one by name, that is of runc's type and has options
// (containerd v2.0, internal/cri/server/runtime_config_linux.go). Nothing where there is none:
// containerd then looks whether systemd has booted the machine.
func (c criConfig) driver() (driver, by string) {
	for name, h := range c.Containerd.Runtimes {
		if h.Type != runcRuntime || h.Options == nil {
			continue
		}
		if by == "" || name == c.Containerd.Default || by != c.Containerd.Default && name < by {
			by = name
		}
	}
	if by == "" {
		return "", ""
	}
	if on, _ := c.Containerd.Runtimes[by].Options["SystemdCgroup"].(bool); on {
		return "systemd", by
	}
	return "cgroupfs", by
}
