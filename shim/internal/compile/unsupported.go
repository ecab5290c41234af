package compile

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// unsupported is the error for a field that mini does not implement.
func unsupported(field string) error {
	return fmt.Errorf("%s: not supported: %w", field, errdefs.ErrNotImplemented)
}

// invalid is the error for a field whose value makes no sense.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// supported refuses what this runtime does not implement, so that nothing in a
// spec is silently ignored. Parts of fields are refused where they are read.
func supported(spec *specs.Spec) error {
	switch {
	case spec.Process == nil:
		return invalid("process", "missing")
	case spec.Root == nil:
		return invalid("root", "missing")
	case spec.Linux == nil:
		return invalid("linux", "missing")
	}
	if err := version(spec.Version); err != nil {
		return err
	}
	l := spec.Linux
	refused := []struct {
		set   bool
		field string
	}{
		{spec.Solaris != nil, "solaris"},
		{spec.Windows != nil, "windows"},
		{spec.VM != nil, "vm"},
		{spec.ZOS != nil, "zos"},
		{spec.FreeBSD != nil, "freebsd"},
		{l.IntelRdt != nil, "linux.intelRdt"},
	}
	for _, r := range refused {
		if r.set {
			return unsupported(r.field)
		}
	}
	return supportedProcess("process", spec.Process)
}

// version checks that the spec is of the major version 1: runtime-spec config.md#specification-version.
// Minor ones add what is refused by name, where it is not there.
func version(v string) error {
	var minor, patch uint
	if n, err := fmt.Sscanf(v, "1.%d.%d", &minor, &patch); n != 2 || err != nil {
		return invalid("ociVersion", "%q: want 1.x.y", v)
	}
	return nil
}

// supportedProcess does so for a process, that of an exec too.
func supportedProcess(field string, p *specs.Process) error {
	if p == nil {
		return invalid(field, "missing")
	}
	refused := []struct {
		set   bool
		field string
	}{
		{p.CommandLine != "", "commandLine"},
		{p.User.Username != "", "user.username"},
	}
	for _, r := range refused {
		if r.set {
			return unsupported(field + "." + r.field)
		}
	}
	return nil
}
