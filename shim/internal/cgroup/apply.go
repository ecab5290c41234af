package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// Apply writes limits and installs the device filter: all of it or, after an
// error, none, as far as the kernel takes its own values back. A limit without
// its controller is a *[MissingControllerError], and then nothing is written.
// Devices that are nil leave the filter as it is.
func (g *Group) Apply(r program.Resources) error { return g.ApplyThen(r, nil) }

// ApplyThen is Apply with a step more: last, if not nil, is called when all is
// written, before the filter is swapped, and its error undoes the rest.
func (g *Group) ApplyThen(r program.Resources, last func() error) (err error) {
	if err := g.checkControllers(r.Writes); err != nil {
		return err
	}
	if err := g.checkUse(r.Writes); err != nil {
		return err
	}
	var done []undo
	defer func() {
		if err == nil {
			return
		}
		for _, u := range slices.Backward(done) {
			if e := g.write(u.file, u.value); e != nil {
				err = errors.Join(err, g.err("undo: write "+u.file, e))
			}
		}
	}()
	var missing error // of the write before, if w is another place for it
	for i, w := range r.Writes {
		old, err := g.replace(w.File, w.Value)
		switch {
		case err == nil:
			done = append(done, undoOf(w.File, w.Value, old)...)
			missing = nil
		case errors.Is(err, unix.ENOENT) && w.Optional:
		case lacks(err) && w.Or && missing == nil:
		case lacks(err) && i+1 < len(r.Writes) && r.Writes[i+1].Or:
			missing = err
		case missing != nil:
			return g.err(w.Field+": write "+r.Writes[i-1].File+" or "+w.File, err)
		default:
			return g.err(w.Field+": write "+w.File, err)
		}
	}
	if last != nil {
		if err := last(); err != nil {
			return err
		}
	}
	if r.Devices == nil {
		return nil
	}
	// Last, because it is the one step that needs no undoing.
	if err := g.setDevices(r.Devices); err != nil {
		return fmt.Errorf("cgroup %s: %w", g.path, err)
	}
	return nil
}

// lacks tells whether an error says that the kernel has not got what a file is for: not at all, or, as with the
// weights of io.cost and BFQ, not for this device.
func lacks(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) }

func (g *Group) checkControllers(writes []program.Write) error {
	var has []string
	for _, w := range writes {
		if w.Controller == "" {
			continue
		}
		if has == nil {
			var err error
			if has, err = g.Controllers(); err != nil {
				return err
			}
		}
		if !slices.Contains(has, w.Controller) {
			return &MissingControllerError{w.Controller, w.Field, g.refused[w.Controller]}
		}
	}
	return nil
}

// checkUse refuses limits below what is in use already, where that was asked
// for.
func (g *Group) checkUse(writes []program.Write) error {
	for _, w := range writes {
		limit, ok := parseUint(w.Value)
		if w.AtLeast == "" || !ok {
			continue
		}
		b, err := g.read(w.AtLeast, nil)
		if gone(err) && w.Optional {
			continue
		}
		if err != nil {
			return g.err(w.Field+": read "+w.AtLeast, err)
		}
		if used := parseSingle(b); used > limit {
			return g.err(w.Field, fmt.Errorf("%d is below the %d bytes in use", limit, used))
		}
	}
	return nil
}

// replace writes to a file and returns what it held before, nil if it cannot
// be read (memory.reclaim).
func (g *Group) replace(name, value string) (old []byte, err error) {
	fd, err := g.open(name, unix.O_RDWR)
	if errors.Is(err, unix.EACCES) {
		return nil, g.write(name, value) // we are not root
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	old, err = readAll(fd, nil)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	return old, writeAll(fd, value)
}

// undo is a write that takes another one back.
type undo struct{ file, value string }

// undoOf tells how to take back the write of value to a file that held old.
// Most files are read as they are written. Those with a line for each device
// take one line a time, and list no device that has only defaults
// (cgroup-v2.rst, "Interface Files", nested keyed).
func undoOf(file, value string, old []byte) []undo {
	if old == nil {
		return nil
	}
	unset, keyed := unsetDevice(file)
	if !keyed {
		return []undo{{file, string(old)}}
	}
	key, _, ok := strings.Cut(strings.TrimSpace(value), " ")
	if !ok {
		// io.weight takes a bare number for the default.
		key = "default"
	}
	for line := range bytes.Lines(old) {
		line = bytes.TrimSpace(line)
		if k, _, _ := bytes.Cut(line, []byte(" ")); string(k) == key {
			return []undo{{file, string(line)}}
		}
	}
	if unset == "" {
		return nil
	}
	return []undo{{file, key + " " + unset}}
}

// unsetDevice tells whether a file has a line for each device, and what takes
// a device's line away.
func unsetDevice(file string) (unset string, keyed bool) {
	switch file {
	case "io.max":
		return "rbps=max wbps=max riops=max wiops=max", true
	case "io.weight", "io.bfq.weight":
		return "default", true
	case "io.latency":
		return "target=0", true
	case "rdma.max", "misc.max", "dmem.max", "dmem.min", "dmem.low":
		// These list every device always.
		return "", true
	}
	return "", false
}
