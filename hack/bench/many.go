package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// crowdWidth is how many containers are made at a time where that is not what is measured.
const crowdWidth = 10

// atOnce calls f for 0 to n-1, width of them at a time.
func atOnce(n, width int, f func(i int) error) error {
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, width)
	for worker := range width {
		group.Go(func() {
			for errs[worker] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				errs[worker] = f(i)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// crowd starts n containers, width at a time, and gives how to remove them.
func (r *run) crowd(c contender, n, width int) (tasks []containerd.Task, remove func() error, err error) {
	tasks = make([]containerd.Task, n)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = r.id(c)
	}
	err = atOnce(n, width, func(i int) (err error) {
		tasks[i], err = r.running(c, ids[i])
		return err
	})
	return tasks, func() error {
		return atOnce(n, width, func(i int) error { return r.remove(tasks[i]) })
	}, err
}

// turns calls f once for each contender in each round.
func (r *run) turns(all []contender, f func(c contender) error) error {
	for i := range r.rounds {
		for j := range all {
			c := all[(i+j)%len(all)]
			if err := f(c); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// real are the contenders that make containers.
func (r *run) real() []contender {
	return slices.DeleteFunc(slices.Clone(r.all), func(c contender) bool { return c.hollow })
}

// hollow are those that make none.
func (r *run) hollow() []contender {
	return slices.DeleteFunc(slices.Clone(r.all), func(c contender) bool { return !c.hollow })
}

// measureParallel brings many containers up, some at a time, and down again.
func (r *run) measureParallel() error {
	for _, width := range r.widths {
		s := r.table.section(fmt.Sprintf("%d containers, %d at a time", r.parallel, width), "per second")
		s.more = true
		err := r.turns(r.all, func(c contender) error {
			begun := time.Now()
			_, remove, err := r.crowd(c, r.parallel, width)
			if err != nil {
				return err
			}
			s.add("started, with container and snapshot", c, float64(r.parallel)/time.Since(begun).Seconds())
			begun = time.Now()
			if err := remove(); err != nil {
				return err
			}
			s.add("killed and removed", c, float64(r.parallel)/time.Since(begun).Seconds())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// measureMemory reads what shims hold while their containers sleep.
func (r *run) measureMemory() error {
	for _, n := range []int{1, r.idle} {
		s := r.table.section(fmt.Sprintf("Memory of each shim, idle single containers: %d", n), "kB")
		err := r.turns(r.real(), func(c contender) error {
			tasks, remove, err := r.crowd(c, n, crowdWidth)
			if err != nil {
				return err
			}
			time.Sleep(r.settle)
			for _, task := range tasks {
				shim, err := parent(int(task.Pid()))
				if err != nil {
					return err
				}
				if err := s.addMemory(c, shim); err != nil {
					return err
				}
			}
			return remove()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// measurePods reads what the one shim of a pod holds.
func (r *run) measurePods() error {
	s := r.table.section(fmt.Sprintf("Memory of one shim, a pod of 1 + %d idle containers", r.pod), "kB")
	return r.turns(r.real(), func(c contender) error {
		pod := r.id(c)
		member := oci.WithAnnotations(map[string]string{"io.kubernetes.cri.sandbox-id": pod})
		tasks := make([]containerd.Task, 1+r.pod)
		shim := 0
		for i := range tasks {
			id := pod
			if i > 0 {
				id = r.id(c)
			}
			var err error
			if tasks[i], err = r.running(c, id, member); err != nil {
				return err
			}
			p, err := parent(int(tasks[i].Pid()))
			switch {
			case err != nil:
				return err
			case i == 0:
				shim = p
			case p != shim:
				return fmt.Errorf("container %d of the pod has a shim of its own", i)
			}
		}
		time.Sleep(r.settle)
		if err := s.addMemory(c, shim); err != nil {
			return err
		}
		for i := len(tasks) - 1; i >= 0; i-- { // the pod's first goes last
			if err := r.remove(tasks[i]); err != nil {
				return err
			}
		}
		return nil
	})
}
