package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// grouped is mini where all containers have one shim.
func (c *config) grouped() contender { return contender{name: "grouped", shim: c.mini, group: "bench"} }

// measureGroup compares a shim for each of many single containers with one for all of them: what they hold, and
// what one container more costs.
func (r *run) measureGroup() error {
	one := r.grouped()
	all := slices.Concat([]contender{r.all[0], one}, r.hollow())
	memory := r.table.section(fmt.Sprintf("Memory of all shims, for each of %d idle single containers", r.group), "kB")
	costs := r.table.section("What one container more costs", "ms")
	memory.names, costs.names = names(all[:2]), names(all)
	if err := r.point(costs, "alone", all); err != nil {
		return err
	}
	for _, c := range all[:2] {
		tasks, remove, err := r.crowd(c, r.group, crowdWidth)
		if err != nil {
			return err
		}
		time.Sleep(r.settle)
		shims := map[int]bool{}
		for _, task := range tasks {
			shim, err := parent(int(task.Pid()))
			if err != nil {
				return err
			}
			shims[shim] = true
		}
		if n := len(shims); c.group != "" && n != 1 {
			return fmt.Errorf("%d shims of one group", n)
		}
		for _, row := range []struct{ name, field string }{{"their share (PSS)", "Pss"}, {"anonymous", "Anonymous"}} {
			sum := 0
			for shim := range shims {
				kb, err := field(shim, "smaps_rollup", row.field)
				if err != nil {
					return err
				}
				sum += kb
			}
			memory.add(row.name, c, float64(sum)/float64(len(tasks)))
		}
		if err := r.point(costs, fmt.Sprintf("beside %d", r.group), append([]contender{c}, r.hollow()...)); err != nil {
			return err
		}
		if err := remove(); err != nil {
			return err
		}
		for shim := range shims {
			if err := ended(shim); err != nil {
				return err
			}
		}
	}
	return nil
}

// ended waits for the end of a shim, which may linger for half a minute.
func ended(shim int) error {
	for limit := time.Now().Add(2 * time.Minute); time.Now().Before(limit); time.Sleep(100 * time.Millisecond) {
		if err := unix.Kill(shim, 0); errors.Is(err, unix.ESRCH) {
			return nil
		}
		if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", shim)); err == nil && len(state) == 0 {
			return nil // a zombie
		}
	}
	return fmt.Errorf("shim %d does not end", shim)
}
