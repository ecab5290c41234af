package shim

import (
	"fmt"
	"os"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// options is what an operator may configure.
type options struct {
	ignoreControllers bool
}

// config is the TOML form of the options, which containerd hands over as a
// path or a body: runtimeoptions.v1.
type config struct {
	MissingControllers string `toml:"missing_controllers"`
}

// parseOptions reads the options of a request: those of mini, those that
// containerd has for any runtime, and those of runc, of which mini honours what
// makes sense without one.
func parseOptions(a *anypb.Any) (options, error) {
	if a == nil || len(a.Value) == 0 && a.TypeUrl == "" {
		return options{}, nil
	}
	switch a.TypeUrl {
	case "runtimeoptions.v1.Options":
		var o runtimeoptions.Options
		if err := proto.Unmarshal(a.Value, &o); err != nil {
			return options{}, invalidOption("options", err)
		}
		return parseConfig(&o)
	case "containerd.runc.v1.Options":
		var o runcoptions.Options
		if err := proto.Unmarshal(a.Value, &o); err != nil {
			return options{}, invalidOption("options", err)
		}
		if o.SystemdCgroup {
			return options{}, fmt.Errorf("options.SystemdCgroup: not supported: %w", errdefs.ErrNotImplemented)
		}
		return options{}, nil
	}
	return options{}, fmt.Errorf("options: type %q: unknown: %w", a.TypeUrl, errdefs.ErrInvalidArgument)
}

func parseConfig(o *runtimeoptions.Options) (options, error) {
	body, name := o.ConfigBody, "options.ConfigBody"
	if o.ConfigPath != "" {
		data, err := os.ReadFile(o.ConfigPath)
		if err != nil {
			return options{}, err
		}
		body, name = data, o.ConfigPath
	}
	var c config
	if err := toml.Unmarshal(body, &c); err != nil {
		return options{}, invalidOption(name, err)
	}
	return c.options(name)
}

func (c config) options(name string) (options, error) {
	switch c.MissingControllers {
	case "", "refuse":
		return options{}, nil
	case "ignore":
		return options{ignoreControllers: true}, nil
	}
	return options{}, fmt.Errorf("%s: missing_controllers: %q: want refuse or ignore: %w",
		name, c.MissingControllers, errdefs.ErrInvalidArgument)
}

func invalidOption(name string, err error) error {
	return fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
}
