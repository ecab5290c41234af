package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
)

// kernel is no contender, but what is beneath all of them.
var kernel = contender{name: "floor"}

// measureFloor asks floor/floor.c what the kernel alone takes.
func (r *run) measureFloor() error {
	s := r.table.section("The kernel's own: cgroup, six namespaces, proc, pivot_root, execve, wait, in C", "ms")
	s.names = []string{kernel.name}
	return r.runFloor(s, "a container of /bin/true")
}

// runFloor adds the times of that program to a row.
func (r *run) runFloor(s *section, row string) (err error) {
	rootfs, remove, err := r.mounted()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := os.MkdirAll(rootfs+"/proc", 0o755); err != nil {
		return err
	}
	group := filepath.Join(cgroupRoot, r.cgroup())
	if err := os.MkdirAll(group, 0o755); err != nil {
		return err
	}
	out, err := exec.Command(r.floor, rootfs, group+"/floor", strconv.Itoa(r.warmup+r.n)).Output()
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	for i, word := range strings.Fields(string(out)) {
		v, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return err
		}
		if i >= r.warmup {
			s.add(row, kernel, v)
		}
	}
	return nil
}

// mounted is the image, mounted where a container's would be, without a container.
func (r *run) mounted() (rootfs string, remove func() error, err error) {
	made, err := r.client.NewContainer(r.ctx, r.id(kernel), containerd.WithSnapshotter(snapshotter),
		containerd.WithNewSnapshot(r.id(kernel), r.image), containerd.WithNewSpec())
	if err != nil {
		return "", nil, err
	}
	remove = func() error { return made.Delete(r.ctx, containerd.WithSnapshotCleanup) }
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	info, err := made.Info(r.ctx)
	if err != nil {
		return "", nil, err
	}
	mounts, err := r.client.SnapshotService(snapshotter).Mounts(r.ctx, info.SnapshotKey)
	if err != nil {
		return "", nil, err
	}
	rootfs = filepath.Join(r.dir, "floor")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return "", nil, err
	}
	if err := mount.All(mounts, rootfs); err != nil {
		return "", nil, err
	}
	record := remove
	remove = func() error { return errors.Join(mount.UnmountAll(rootfs, 0), record()) }
	return rootfs, remove, nil
}
