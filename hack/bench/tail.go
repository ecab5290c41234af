package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
)

// busy keeps every core of the machine at work until stop is called.
func busy() (stop func() error, err error) {
	var loops []*exec.Cmd
	stop = func() error {
		var errs []error
		for _, loop := range loops {
			errs = append(errs, loop.Process.Kill())
			_ = loop.Wait() // it was killed
		}
		return errors.Join(errs...)
	}
	for range runtime.NumCPU() {
		loop := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := loop.Start(); err != nil {
			return nil, errors.Join(err, stop())
		}
		loops = append(loops, loop)
	}
	return stop, nil
}

// measureTail looks at the slow ones: lives while the cores are busy, and each of many containers that
// are made at the same time.
func (r *run) measureTail() error {
	stop, err := busy()
	if err != nil {
		return err
	}
	s := r.table.section("A container of /bin/true through containerd, while every core is busy with something else", "ms")
	err = r.interleave(r.all, r.n, func(c contender, counts bool) error { return r.life(s, c, counts, nil) })
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	s = r.table.section(fmt.Sprintf("Each of %d containers that are made at the same time", r.crowds()), "ms")
	return r.turns(r.all, func(c contender) error {
		// What is measured here is create; the records are there before.
		made := make([]containerd.Container, r.crowds())
		for i := range made {
			var err error
			if made[i], err = r.container(c, r.id(c), sleeper); err != nil {
				return err
			}
		}
		tasks := make([]containerd.Task, len(made))
		took := make([]float64, len(made))
		begun := time.Now()
		err := atOnce(len(made), len(made), func(i int) (err error) {
			own := time.Now()
			tasks[i], err = made[i].NewTask(r.ctx, cio.NullIO)
			took[i] = milliseconds(time.Since(own))
			return err
		})
		all := milliseconds(time.Since(begun))
		if err != nil {
			return err
		}
		for _, v := range took {
			s.add("create", c, v)
		}
		s.add("the first to be there", c, slices.Min(took))
		s.add("all of them", c, all)
		return atOnce(len(tasks), crowdWidth, func(i int) error { return r.remove(tasks[i]) })
	})
}

// crowds is how many are made at the same time.
func (r *run) crowds() int { return slices.Max(r.widths) }
