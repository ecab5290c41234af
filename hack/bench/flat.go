package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// point measures lives, and execs in one container, at one point of a curve.
func (r *run) point(s *section, at string, c contender, opts ...oci.SpecOpts) error {
	for i := range r.warmup + r.n {
		var one section
		if err := r.life(&one, c, true, opts); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if i < r.warmup {
			continue
		}
		for _, row := range one.rows {
			if row.name == "create" || row.name == "delete" {
				s.add(row.name+", "+at, c, row.values[c.name][0])
			}
		}
	}
	task, err := r.running(c, r.id(c), opts...)
	if err != nil {
		return err
	}
	spec, err := task.Spec(r.ctx)
	if err != nil {
		return err
	}
	spec.Process.Args = []string{"/bin/true"}
	for i := range r.warmup + r.n {
		var one section
		if err := r.exec(&one, c, true, task, spec.Process); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		for _, row := range one.rows {
			if row.name == "sum" && i >= r.warmup {
				s.add("exec, "+at, c, row.values[c.name][0])
			}
		}
	}
	return r.remove(task)
}

func (r *run) curveContainers() error {
	s := r.curve("the number of containers that run", r.real())
	for _, c := range r.real() {
		var removes []func() error
		sum := 0
		for _, n := range []int{0, r.many / 10, r.many} {
			_, remove, err := r.crowd(c, n-sum, crowdWidth)
			if err != nil {
				return err
			}
			sum, removes = n, append(removes, remove)
			if err := r.point(s, fmt.Sprintf("%d containers", n), c); err != nil {
				return err
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
	s := r.curve("the number of mounts on the host", r.real())
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
		for _, c := range r.real() {
			if err := r.point(s, fmt.Sprintf("%d mounts", want), c); err != nil {
				return err
			}
		}
	}
	return nil
}

// curveLayers makes its layers by hand: an image of as many would be no different to a shim. There is no
// exec in it, which knows nothing of layers.
func (r *run) curveLayers() error {
	s := r.curve("the number of layers", r.ours())
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
			for _, c := range r.ours() {
				for i := range r.warmup + r.n {
					var one section
					if err := r.lifeOn(&one, c, parent); err != nil {
						return fmt.Errorf("%d layers: %w", n, err)
					}
					if i >= r.warmup {
						s.add(fmt.Sprintf("create, %d layers", n), c, one.rows[0].values[c.name][0])
					}
				}
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
	s := r.curve("the size of the environment", r.real())
	for _, kb := range []int{1, 16, 64} {
		var env []string
		for i := range kb {
			env = append(env, fmt.Sprintf("BENCH_%d=%s", i, strings.Repeat("x", 1000)))
		}
		for _, c := range r.real() {
			if err := r.point(s, fmt.Sprintf("%d kB", kb), c, oci.WithEnv(env)); err != nil {
				return err
			}
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
			if err := r.point(s, fmt.Sprintf("%d MB", mb), c, member); err != nil {
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
