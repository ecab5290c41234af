package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// measureStreams has a container write as fast as it can, to a FIFO and to a terminal, and somebody read.
func (r *run) measureStreams() error {
	for _, way := range []struct {
		name string
		mib  int
		opts []oci.SpecOpts
		with []cio.Opt
	}{
		{"to its stdout, a FIFO", r.stream, nil, nil},
		{"to its terminal", r.stream / 8, []oci.SpecOpts{oci.WithTTY}, []cio.Opt{cio.WithTerminal}},
	} {
		rate := r.table.section(fmt.Sprintf("A container writes %d MiB %s", way.mib, way.name), "MiB per second")
		rate.more = true
		cost := r.table.section(fmt.Sprintf("CPU of the shim for %d MiB %s", way.mib, way.name), "ms")
		err := r.turns(r.real(), func(c contender) error {
			return r.pour(rate, cost, c, way.mib, way.opts, way.with)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// counter counts what is written to it.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

func (r *run) pour(rate, cost *section, c contender, mib int, opts []oci.SpecOpts, with []cio.Opt) error {
	opts = append([]oci.SpecOpts{
		oci.WithProcessArgs("/bin/dd", "if=/dev/zero", "bs=65536", "count="+strconv.Itoa(mib*16)),
	}, opts...)
	made, err := r.container(c, r.id(c), opts...)
	if err != nil {
		return err
	}
	var got counter
	with = append([]cio.Opt{cio.WithStreams(nil, &got, io.Discard), cio.WithFIFODir(r.dir + "/fifo")}, with...)
	task, err := made.NewTask(r.ctx, cio.NewCreator(with...))
	if err != nil {
		return err
	}
	exited, err := task.Wait(r.ctx)
	if err != nil {
		return err
	}
	shim, err := parent(int(task.Pid()))
	if err != nil {
		return err
	}
	before, err := cpuOf(shim)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := task.Start(r.ctx); err != nil {
		return err
	}
	if err := succeeded(<-exited); err != nil {
		return err
	}
	task.IO().Wait()
	took := time.Since(begun).Seconds()
	after, err := cpuOf(shim)
	if err != nil {
		return err
	}
	if want := int64(mib) << 20; got.n.Load() < want {
		return fmt.Errorf("%d of %d bytes arrived", got.n.Load(), want)
	}
	rate.add("through the shim", c, float64(mib)/took)
	cost.add("user and system", c, after-before)
	return r.remove(task)
}

// cpuOf is what the threads of a process have used until now, in milliseconds: proc_pid_schedstat, in
// the kernel's Documentation/scheduler/sched-stats.rst.
func cpuOf(pid int) (float64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		ns, err := strconv.ParseFloat(strings.Fields(string(data))[0], 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += ns / 1e6
	}
	return sum, nil
}
