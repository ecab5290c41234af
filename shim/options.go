package shim

import (
	"bytes"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// options is what an operator, or a client, may configure.
type options struct {
	ignoreControllers bool
	systemdCgroup     bool
	// shimGroup are the containers that share a shim, of whatever pods: for `start` to heed.
	shimGroup string
	// ioUID and ioGID own the pipes of the container's streams, where runc's
	// options say so.
	ioUID, ioGID uint32
}

// config is the TOML form of the message Options, which containerd hands over
// as a path or a body: runtimeoptions.v1.
type config struct {
	MissingControllers string `toml:"missing_controllers"`
	ShimGroup          string `toml:"shim_group"`
	// SystemdCgroup is what a handler of runc has in containerd's configuration, from where such lines are copied.
	SystemdCgroup bool `toml:"SystemdCgroup"`
}

// parseOptions reads the options of a request: those of mini, those that
// containerd has for any runtime, and those of runc, of which what speaks of
// the runc binary means nothing here.
func parseOptions(a *api.Any) (options, error) {
	if a == nil || a.TypeURL == "" && len(a.Value) == 0 {
		return options{}, nil
	}
	switch a.TypeURL {
	case "containerd.mini.v1.Options":
		var o api.MiniOptions
		if err := api.Unmarshal(a.Value, &o); err != nil {
			return options{}, invalidOption("options", err)
		}
		return config{MissingControllers: o.MissingControllers, ShimGroup: o.ShimGroup}.options("options")
	case "runtimeoptions.v1.Options":
		var o api.RuntimeOptions
		if err := api.Unmarshal(a.Value, &o); err != nil {
			return options{}, invalidOption("options", err)
		}
		return parseConfig(&o)
	case "containerd.runc.v1.Options":
		var o api.RuncOptions
		if err := api.Unmarshal(a.Value, &o); err != nil {
			return options{}, invalidOption("options", err)
		}
		return parseRunc(&o)
	}
	return options{}, fmt.Errorf("options: type %q: unknown: %w", a.TypeURL, errdefs.ErrInvalidArgument)
}

// parseRunc refuses what would change how a container is made. BinaryName,
// Root and the Criu paths are about a program that is not there.
func parseRunc(o *api.RuncOptions) (options, error) {
	for _, r := range []struct {
		set  bool
		name string
	}{
		{o.NoPivotRoot, "NoPivotRoot"},
		{o.NoNewKeyring, "NoNewKeyring"},
		{o.ShimCgroup != "", "ShimCgroup"},
	} {
		if r.set {
			return options{}, fmt.Errorf("options.%s: not supported: %w", r.name, errdefs.ErrNotImplemented)
		}
	}
	return options{systemdCgroup: o.SystemdCgroup, ioUID: o.IoUID, ioGID: o.IoGID}, nil
}

func parseConfig(o *api.RuntimeOptions) (options, error) {
	body, name := o.ConfigBody, "options.ConfigBody"
	if o.ConfigPath != "" {
		data, err := os.ReadFile(o.ConfigPath)
		if err != nil {
			return options{}, fmt.Errorf("options.ConfigPath: %w", err)
		}
		body, name = data, o.ConfigPath
	}
	var c config
	// A key that is misspelt is not passed over.
	dec := toml.NewDecoder(bytes.NewReader(body)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return options{}, invalidOption(name, err)
	}
	return c.options(name)
}

func (c config) options(name string) (options, error) {
	o := options{systemdCgroup: c.SystemdCgroup, shimGroup: c.ShimGroup}
	switch c.MissingControllers {
	case "", "refuse":
		return o, nil
	case "ignore":
		o.ignoreControllers = true
		return o, nil
	}
	return options{}, fmt.Errorf("%s: missing_controllers: %q: want refuse or ignore: %w",
		name, c.MissingControllers, errdefs.ErrInvalidArgument)
}

func invalidOption(name string, err error) error {
	return fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
}
