package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// measureFlat looks for costs that grow: each section is a curve.
func (r *run) measureFlat() error {
	for _, curve := range []func() error{
		r.curveContainers, r.curveMounts, r.curveLayers, r.curveEnvironment, r.curveHeap,
	} {
		if err := curve(); err != nil {
			return err
		}
	}
	return nil
}

// ours are the contenders that run without a runtime beneath the shim.
func (r *run) ours() (list []contender) {
	for _, c := range r.real() {
		if c.binary == "" {
			list = append(list, c)
		}
	}
	return list
}

const curveTitle = "Cost by "

// curve is the section of one; its rows are its points.
func (r *run) curve(of string, all []contender) *section {
	s := r.table.section(curveTitle+of, "ms")
	s.names = names(all)
	return s
}

// point measures lives, and execs in one container, of all these in turns, at one point of a curve.
func (r *run) point(s *section, at string, all []contender, opts ...oci.SpecOpts) error {
	err := r.interleave(all, r.n, func(c contender, counts bool) error {
		var one section
		err := r.life(&one, c, counts, opts)
		one.copyRow("create", s, "create, "+at, c)
		one.copyRow("delete", s, "delete, "+at, c)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	tasks, err := r.execTasks(all, opts)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	err = r.interleave(all, r.n, func(c contender, counts bool) error {
		var one section
		err := r.exec(&one, c, counts, tasks[c.name])
		one.copyRow("sum", s, "exec, "+at, c)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return r.removeTasks(tasks)
}

// pointAlone is point, and the same without containerd: what grows there grows in the shim, or below it.
func (r *run) pointAlone(s *section, at string, all []contender, opts ...oci.SpecOpts) error {
	if err := r.point(s, at, all, opts...); err != nil {
		return err
	}
	err := r.interleave(all, r.n, func(c contender, counts bool) error {
		var one section
		err := r.shim(&one, c, counts, opts)
		one.copyRow("sum of these", s, "shim alone, "+at, c)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

// copyRow adds what c has in one's row to a row of s.
func (one *section) copyRow(from string, s *section, to string, c contender) {
	for _, row := range one.rows {
		if row.name == from {
			for _, v := range row.values[c.name] {
				s.add(to, c, v)
			}
		}
	}
}

// curveContainers gives each runtime a crowd of its own; the kernel alone, and the shim that does nothing, that
// of mini.
func (r *run) curveContainers() error {
	s := r.curve("the number of containers that run", append(slices.Clone(r.all), kernel))
	for _, c := range r.real() {
		group := []contender{c}
		if c.name == r.all[0].name {
			group = append(group, r.hollow()...)
		}
		var removes []func() error
		sum := 0
		for _, n := range []int{0, r.many / 10, r.many} {
			_, remove, err := r.crowd(c, n-sum, crowdWidth)
			if err != nil {
				return err
			}
			sum, removes = n, append(removes, remove)
			at := fmt.Sprintf("%d containers", n)
			if err := r.pointAlone(s, at, group); err != nil {
				return err
			}
			if c.name == r.all[0].name {
				if err := r.runFloor(s, "create, "+at); err != nil {
					return err
				}
			}
		}
		for _, remove := range removes {
			if err := remove(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) curveMounts() (err error) {
	s := r.curve("the number of mounts on the host", r.all)
	base := filepath.Join(r.dir, "mounts")
	n := 0
	defer func() {
		for ; n > 0; n-- {
			err = errors.Join(err, unix.Unmount(fmt.Sprintf("%s/%d", base, n), unix.MNT_DETACH))
		}
	}()
	for _, want := range []int{0, 1000, 4000} {
		for n < want {
			dir := fmt.Sprintf("%s/%d", base, n+1)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
				return fmt.Errorf("mount %s: %w", dir, err)
			}
			n++
		}
		at := fmt.Sprintf("%d mounts", want)
		if err := r.pointAlone(s, at, r.all); err != nil {
			return err
		}
	}
	return nil
}

// curveLayers makes its layers by hand: an image of as many would be no different to a shim. There is no
// exec in it, which knows nothing of layers.
func (r *run) curveLayers() error {
	all := append(r.ours(), r.hollow()...)
	s := r.curve("the number of layers", all)
	ctx, done, err := r.client.WithLease(r.ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	store := r.client.SnapshotService(snapshotter)
	top, err := r.image.RootFS(ctx)
	if err != nil {
		return err
	}
	parent := identity.ChainID(top).String()
	for n := len(top); n <= 128; n++ {
		if n == len(top) || n == 32 || n == 128 {
			err := r.interleave(all, r.n, func(c contender, counts bool) error {
				var one section
				err := r.lifeOn(&one, c, parent)
				if counts {
					one.copyRow("create", s, fmt.Sprintf("create, %d layers", n), c)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("%d layers: %w", n, err)
			}
		}
		key, name := fmt.Sprintf("flat-%d-active", n), fmt.Sprintf("flat-%d", n)
		if _, err := store.Prepare(ctx, key, parent); err != nil {
			return err
		}
		if err := store.Commit(ctx, name, key, rooted); err != nil {
			return err
		}
		parent = name
	}
	for n := 128; n >= len(top); n-- {
		if err := store.Remove(ctx, fmt.Sprintf("flat-%d", n)); err != nil {
			return err
		}
	}
	return done(r.ctx)
}

// lifeOn is a life on a snapshot of its own, of which create counts.
func (r *run) lifeOn(s *section, c contender, parent string) error {
	key := r.id(c)
	store := r.client.SnapshotService(snapshotter)
	if _, err := store.Prepare(r.ctx, key, parent, rooted); err != nil {
		return err
	}
	made, err := r.client.NewContainer(r.ctx, key, c.runtime(), containerd.WithSnapshotter(snapshotter),
		containerd.WithSnapshot(key), containerd.WithNewSpec(oci.WithProcessArgs("/bin/true"), oci.WithDefaultPathEnv, older))
	if err != nil {
		return err
	}
	w := newWatch()
	task, err := made.NewTask(r.ctx, cio.NullIO)
	if err != nil {
		return err
	}
	s.add("create", c, w.lap())
	exited, err := task.Wait(r.ctx)
	if err != nil {
		return err
	}
	if err := task.Start(r.ctx); err != nil {
		return err
	}
	if err := succeeded(<-exited); err != nil {
		return err
	}
	if _, err := task.Delete(r.ctx); err != nil {
		return err
	}
	return made.Delete(r.ctx, containerd.WithSnapshotCleanup)
}

func (r *run) curveEnvironment() error {
	s := r.curve("the size of the environment", r.all)
	for _, kb := range []int{1, 16, 64} {
		var env []string
		for i := range kb {
			env = append(env, fmt.Sprintf("BENCH_%d=%s", i, strings.Repeat("x", 1000)))
		}
		at, with := fmt.Sprintf("%d kB", kb), oci.WithEnv(env)
		if err := r.pointAlone(s, at, r.all, with); err != nil {
			return err
		}
	}
	return nil
}

// curveHeap makes a shim of mini large by registering execs with long arguments, which it keeps until they are
// started or deleted, and has it run a second container of the same pod.
func (r *run) curveHeap() error {
	s := r.curve("the heap of the shim", r.ours())
	const each = 3 << 20 // a message of ttrpc has at most 4 MiB
	for _, c := range r.ours() {
		pod := r.id(c)
		member := oci.WithAnnotations(map[string]string{"io.kubernetes.cri.sandbox-id": pod})
		task, err := r.running(c, pod, member)
		if err != nil {
			return err
		}
		var execs []containerd.Process
		for _, mb := range []int{0, 200} {
			for len(execs)*each < mb<<20 {
				p, err := task.Exec(r.ctx, r.id(c), &specs.Process{
					Args: []string{"/bin/true", strings.Repeat("x", each)}, Cwd: "/",
				}, cio.NullIO)
				if err != nil {
					return err
				}
				execs = append(execs, p)
			}
			if err := r.point(s, fmt.Sprintf("%d MB", mb), []contender{c}, member); err != nil {
				return err
			}
		}
		for _, p := range execs {
			if _, err := p.Delete(r.ctx); err != nil {
				return err
			}
		}
		if err := r.remove(task); err != nil {
			return err
		}
	}
	return nil
}
