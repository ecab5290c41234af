package bootstrap

import (
	"errors"
	"os"
	"strconv"
)

// Version of mini, set by the linker.
var Version = "dev"

// Args are the flags that containerd gives to a shim.
type Args struct {
	Namespace, ID, Address string
	Bundle, Socket         string
	Debug, Info, Version   bool
	Linger                 bool   // of the daemon: see Retire
	Action                 string // "start", "delete", or "" for the daemon
}

// Parse reads the command line, in the forms of package flag.
func Parse(argv []string) (Args, error) {
	var a Args
	rest, err := a.flags(argv)
	if err != nil {
		return a, err
	}
	switch {
	case len(rest) > 1:
		return a, errors.New("unexpected argument " + strconv.Quote(rest[1]))
	case len(rest) == 1 && rest[0] != "start" && rest[0] != "delete":
		return a, errors.New("action " + strconv.Quote(rest[0]) + ": want start or delete")
	case len(rest) == 1:
		a.Action = rest[0]
	}
	if a.Info || a.Version {
		return a, nil
	}
	return a, a.check()
}

// flags sets the flags of argv and returns the arguments after them. Each may
// stand with one dash or two, a string as -name value or -name=value.
func (a *Args) flags(argv []string) (rest []string, err error) {
	var ignored string // the path of containerd: events go over ttrpc
	for len(argv) > 0 && len(argv[0]) > 1 && argv[0][0] == '-' {
		arg := argv[0][1:]
		argv = argv[1:]
		if arg[0] == '-' {
			if arg = arg[1:]; arg == "" {
				break
			}
		}
		name, value, given := cut(arg, "=")
		var text *string
		var set *bool
		switch name {
		case "namespace":
			text = &a.Namespace
		case "id":
			text = &a.ID
		case "address": // of containerd's gRPC socket
			text = &a.Address
		case "publish-binary":
			text = &ignored
		case "bundle": // if it is not the working directory
			text = &a.Bundle
		case "socket": // the shim's own, for the daemon
			text = &a.Socket
		case "debug":
			set = &a.Debug
		case "linger": // for the daemon
			set = &a.Linger
		case "info":
			set = &a.Info
		case "v", "version":
			set = &a.Version
		default:
			return nil, errors.New("flag provided but not defined: -" + name)
		}
		switch {
		case set != nil && given:
			if *set, err = strconv.ParseBool(value); err != nil {
				return nil, wrap("-"+name, err)
			}
		case set != nil:
			*set = true
		case given:
			*text = value
		case len(argv) == 0:
			return nil, errors.New("flag needs an argument: -" + name)
		default:
			*text, argv = argv[0], argv[1:]
		}
	}
	return argv, nil
}

// cut is strings.Cut, and wrap is fmt.Errorf("%s: %w"): see doc.go for what
// this package does without.
func cut(s, sep string) (before, after string, found bool) {
	for i := 0; i+len(sep) <= len(s); i++ {
		if s[i:i+len(sep)] == sep {
			return s[:i], s[i+len(sep):], true
		}
	}
	return s, "", false
}

type wrapped struct {
	what string
	err  error
}

func (w *wrapped) Error() string { return w.what + ": " + w.err.Error() }
func (w *wrapped) Unwrap() error { return w.err }

func wrap(what string, err error) error { return &wrapped{what, err} }

// check refuses names that would lead out of a directory.
func (a *Args) check() error {
	for _, f := range []struct{ name, value string }{{"namespace", a.Namespace}, {"id", a.ID}} {
		if err := checkName(f.value); err != nil {
			return wrap("-"+f.name, err)
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
			return errors.New(strconv.Quote(s) + ": not a name")
		}
	}
	if s == "." || s == ".." {
		return errors.New(strconv.Quote(s) + ": not a name")
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
		_, err := os.Stdout.WriteString("containerd-shim-mini-v2:\n  Version:  " + Version + "\n")
		return true, err
	case a.Info:
		return false, nil
	case a.Action == "start":
		return startEarly(&a, os.Stdin)
	case a.Action == "delete":
		return deleteEarly(&a)
	}
	return false, nil
}
