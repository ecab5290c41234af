package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"
)

// measureStreams has a container write as fast as it can, to a FIFO and to a terminal, and somebody read. The
// floor has no shim between the two: what can be had on this machine.
func (r *run) measureStreams() (err error) {
	rootfs, remove, err := r.mounted()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	for _, way := range []struct {
		name   string
		mib    int
		opts   []oci.SpecOpts
		with   []cio.Opt
		direct func() (writer, reader *os.File, err error)
	}{
		{"to its stdout, a FIFO", r.stream, nil, nil, r.directFIFO},
		{"to its terminal", r.stream / 8, []oci.SpecOpts{oci.WithTTY}, []cio.Opt{cio.WithTerminal}, directTerminal},
	} {
		rate := r.table.section(fmt.Sprintf("A container writes %d MiB %s", way.mib, way.name), "MiB per second")
		rate.more = true
		rate.names = append(names(r.real()), kernel.name)
		cost := r.table.section(fmt.Sprintf("CPU of the shim for %d MiB %s", way.mib, way.name), "ms")
		cost.names = names(r.real())
		err := r.turns(append(r.real(), kernel), func(c contender) error {
			if c.name == kernel.name {
				writer, reader, err := way.direct()
				if err != nil {
					return err
				}
				return pourDirect(rate, c, way.mib, filepath.Join(rootfs, "bin/busybox"), writer, reader)
			}
			return r.pour(rate, cost, c, way.mib, way.opts, way.with)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// directFIFO is a FIFO, as wide as a shim's own may be.
func (r *run) directFIFO() (writer, reader *os.File, err error) {
	path := filepath.Join(r.dir, "direct")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, nil, fmt.Errorf("mkfifo: %w", err)
	}
	defer os.Remove(path)
	if reader, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, nil, err
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0) // blocking, as the writer inherits it
	if err != nil {
		reader.Close()
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 256<<10)
	return os.NewFile(uintptr(fd), path), reader, nil
}

// directTerminal is a terminal: pts(4).
func directTerminal() (writer, reader *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("/dev/ptmx: %w", err)
	}
	reader = os.NewFile(uintptr(fd), "/dev/ptmx")
	defer func() {
		if err != nil {
			reader.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock a terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("number of a terminal: %w", err)
	}
	writer, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return writer, reader, err
}

// pourDirect has nobody between the writer and the client, which reads as containerd's does: 32 kB at a time.
func pourDirect(rate *section, c contender, mib int, busybox string, writer, reader *os.File) error {
	defer reader.Close()
	cmd := exec.Command(busybox, "dd", "if=/dev/zero", "bs=65536", "count="+strconv.Itoa(mib*16))
	cmd.Stdout = writer
	begun := time.Now()
	err := cmd.Start()
	writer.Close()
	if err != nil {
		return err
	}
	var got counter
	// A terminal without a writer is an error: pty(7).
	_, _ = io.CopyBuffer(&got, struct{ io.Reader }{reader}, make([]byte, 32<<10))
	took := time.Since(begun).Seconds()
	if err := cmd.Wait(); err != nil {
		return err
	}
	if want := int64(mib) << 20; got.n.Load() < want {
		return fmt.Errorf("%d of %d bytes arrived", got.n.Load(), want)
	}
	rate.add("through the shim", c, float64(mib)/took)
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
