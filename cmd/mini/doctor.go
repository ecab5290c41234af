package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/containerd-mini/mini/shim"
	"github.com/containerd-mini/mini/snapshotter"
)

// runDoctor is `mini doctor`.
func runDoctor(args []string) error {
	f := flag.NewFlagSet("mini doctor", flag.ContinueOnError)
	containerd := f.String("containerd-config", "/etc/containerd/config.toml", "configuration `file` of containerd")
	file := f.String("config", snapshotterConfig, "configuration `file` of mini-snapshotter")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("doctor: unexpected argument %q", f.Arg(0))
	}
	all := shim.Doctor(*containerd)
	var disk shim.Finding
	if c, err := readConfig(*file); err != nil {
		disk = shim.Finding{What: "snapshotter: " + err.Error(), Advice: "mini-snapshotter does not start with it"}
	} else {
		disk.What, disk.Advice = snapshotter.Doctor(c)
	}
	return report(os.Stdout, append(all, disk))
}

// report prints findings. It returns an error if no container could be made.
func report(w io.Writer, all []shim.Finding) error {
	fatal := 0
	for _, f := range all {
		mark := "ok   "
		switch {
		case f.Fatal:
			mark = "FAIL "
			fatal++
		case f.Advice != "":
			mark = "note "
		}
		fmt.Fprintln(w, mark, f.What)
		if f.Advice != "" {
			fmt.Fprintln(w, "       ", f.Advice)
		}
	}
	switch fatal {
	case 0:
		return nil
	case 1:
		return errors.New("doctor: one finding keeps containers from running")
	}
	return fmt.Errorf("doctor: %d findings keep containers from running", fatal)
}
