package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd-mini/mini/snapshotter"
)

// snapshotterConfig is where mini-snapshotter looks too.
const snapshotterConfig = "/etc/mini-snapshotter/config.toml"

// readConfig is the snapshotter's configuration: the default one where there
// is no file.
func readConfig(path string) (snapshotter.Config, error) {
	c, err := snapshotter.ReadConfig(path)
	if path == snapshotterConfig && errors.Is(err, os.ErrNotExist) {
		return snapshotter.DefaultConfig(), nil
	}
	return c, err
}

// runConfig is `mini config containerd VERSION`.
func runConfig(args []string) error {
	f := flag.NewFlagSet("mini config", flag.ContinueOnError)
	file := f.String("config", snapshotterConfig, "configuration `file` of mini-snapshotter")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 2 || f.Arg(0) != "containerd" {
		return errors.New("config: want containerd and the version of its configuration: 2, 3 or 4")
	}
	version, err := strconv.Atoi(f.Arg(1))
	if err != nil {
		return fmt.Errorf("config: version %q: want 2, 3 or 4", f.Arg(1))
	}
	c, err := readConfig(*file)
	if err != nil {
		return err
	}
	text, err := snapshotter.ConfigContainerd(version, c)
	if err != nil {
		return err
	}
	fmt.Print(text)
	return nil
}

// runSnapshotter is `mini snapshotter ls|usage|fsck`.
func runSnapshotter(args []string) error {
	if len(args) == 0 {
		return errors.New("snapshotter: want ls, usage or fsck")
	}
	f := flag.NewFlagSet("mini snapshotter "+args[0], flag.ContinueOnError)
	file := f.String("config", snapshotterConfig, "configuration `file` of mini-snapshotter")
	root := f.String("root", "", "`directory` of the snapshots")
	address := f.String("address", "", "`path` of the service's socket")
	repair := f.Bool("repair", false, "mend what fsck finds")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("snapshotter %s: unexpected argument %q", args[0], f.Arg(0))
	}
	c, err := readConfig(*file)
	if err != nil {
		return err
	}
	if *root != "" {
		c.Root = *root
	}
	if *address != "" {
		c.Address = *address
	}
	switch args[0] {
	case "ls":
		return snapshotter.List(context.Background(), c.Address, os.Stdout)
	case "usage":
		return snapshotter.Totals(context.Background(), c.Address, os.Stdout)
	case "fsck":
		return fsck(c, *repair)
	}
	return fmt.Errorf("snapshotter: %q: want ls, usage or fsck", args[0])
}

func fsck(c snapshotter.Config, repair bool) error {
	findings, err := snapshotter.Fsck(c, repair)
	for _, f := range findings {
		fmt.Println(f)
	}
	switch {
	case err != nil || repair || len(findings) == 0:
		return err
	case len(findings) == 1:
		return errors.New("one finding; --repair mends it")
	}
	return fmt.Errorf("%d findings; --repair mends them", len(findings))
}
