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
		{p.SelinuxLabel != "", "selinuxLabel"},
	}
	for _, r := range refused {
		if r.set {
			return unsupported(field + "." + r.field)
		}
	}
	return nil
}
