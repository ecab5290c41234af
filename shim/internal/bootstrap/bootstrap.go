package bootstrap

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// Version of mini, set by the linker.
var Version = "dev"

// Args are the flags that containerd gives to a shim.
type Args struct {
	Namespace, ID, Address string
	PublishBinary, Bundle  string
	Socket                 string
	Debug, Info, Version   bool
	Action                 string // "start", "delete", or "" for the daemon
}

// Parse reads the command line.
func Parse(argv []string) (Args, error) {
	var a Args
	fs := flag.NewFlagSet("containerd-shim-mini-v2", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&a.Namespace, "namespace", "", "namespace that owns the shim")
	fs.StringVar(&a.ID, "id", "", "id of the container")
	fs.StringVar(&a.Address, "address", "", "address of containerd's gRPC socket")
	fs.StringVar(&a.PublishBinary, "publish-binary", "", "path of containerd, unused: events go over ttrpc")
	fs.StringVar(&a.Bundle, "bundle", "", "path of the bundle, if it is not the working directory")
	fs.StringVar(&a.Socket, "socket", "", "path of the shim's socket, for the daemon")
	fs.BoolVar(&a.Debug, "debug", false, "log debug messages")
	fs.BoolVar(&a.Info, "info", false, "print the runtime's features, as protobuf")
	fs.BoolVar(&a.Version, "v", false, "print the version")
	fs.BoolVar(&a.Version, "version", false, "print the version")
	if err := fs.Parse(argv); err != nil {
		return a, err
	}
	switch rest := fs.Args(); {
	case len(rest) > 1:
		return a, fmt.Errorf("unexpected argument %q", rest[1])
	case len(rest) == 1 && rest[0] != "start" && rest[0] != "delete":
		return a, fmt.Errorf("action %q: want start or delete", rest[0])
	case len(rest) == 1:
		a.Action = rest[0]
	}
	if a.Info || a.Version {
		return a, nil
	}
	return a, a.check()
}

// check refuses names that would lead out of a directory.
func (a *Args) check() error {
	for _, f := range []struct{ name, value string }{{"namespace", a.Namespace}, {"id", a.ID}} {
		if err := checkName(f.value); err != nil {
			return fmt.Errorf("-%s: %w", f.name, err)
		}
	}
	return nil
}

func checkName(s string) error {
	if s == "" {
		return errors.New("missing")
	}
	for i := 0; i < len(s); i++ {
		if s[i] == '/' || s[i] == 0 {
			return fmt.Errorf("%q: not a name", s)
		}
	}
	if s == "." || s == ".." {
		return fmt.Errorf("%q: not a name", s)
	}
	return nil
}

// Run does what needs no daemon. It returns false where the rest of the
// program has to go on: for the daemon itself, for -info, and for a `delete`
// that finds something to clean up.
//
// containerd reads stdout and stderr of `start` as one: nothing is written to
// stderr unless it fails.
func Run(argv []string) (handled bool, err error) {
	a, err := Parse(argv)
	switch {
	case err != nil:
		return true, err
	case a.Version:
		fmt.Printf("containerd-shim-mini-v2:\n  Version:  %s\n", Version)
		return true, nil
	case a.Info:
		return false, nil
	case a.Action == "start":
		out, err := start(&a, os.Stdin)
		if err != nil {
			return true, err
		}
		_, err = os.Stdout.Write(out)
		return true, err
	case a.Action == "delete":
		return deleteEarly(&a)
	}
	return false, nil
}
